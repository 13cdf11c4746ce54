//! The library against both databases.

mod db;

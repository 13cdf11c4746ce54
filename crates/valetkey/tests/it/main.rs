//! The library against both databases.

mod db;
mod seal;

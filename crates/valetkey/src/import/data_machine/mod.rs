//! The formats of Data Machine, the WordPress plugin whose accounts and agents move in here.
//!
//! 1. A site's accounts are one WordPress option, an array in PHP's serialization ([`php`]) or its JSON ([`option`]).
//! 2. Its secret fields are sealed texts, [`envelope`], under a key made of two WordPress salts ([`salts`]), which
//!    stand in the database or in the configuration file ([`wp_config`]).
//! 3. A dump of the site's database has the option, the salts and the agents with their tokens ([`dump`]).
//!
//! 4. What these hold becomes items of ours ([`plan`], [`tables`]), and items become it again ([`compose`], [`sql`]).
//!
//! Nothing here touches a database, a network or PHP: bytes in, values out, and back. All of it may be hostile.

mod ceiling;
pub mod compose;
pub mod dump;
pub mod envelope;
pub mod option;
pub mod php;
pub mod plan;
pub mod salts;
pub mod sql;
pub mod tables;
pub mod value;
pub mod wp_config;

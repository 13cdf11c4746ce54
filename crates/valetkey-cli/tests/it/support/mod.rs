//! What the tests stand on.
//!
//! - [`Home`] is where a broker lives: a data folder with SQLite, or a fresh PostgreSQL database with a root key. It
//!   outlives servers, so that one can be killed and the next started.
//! - [`Server`] is a running `valetkey serve` on a home; several on PostgreSQL. It is killed when dropped, and its log is
//!   printed when the test fails.
//! - [`Home::cli`] runs a command as the operator and returns what came of it.
//! - [`World`] is a home with the provider lab outside, an app configured there, an agent, and shortcuts for the steps of
//!   the main job.
//! - [`Program`] runs what somebody else wrote, and hears what it prints.
//! - [`Browser`] follows redirects and fills in forms, with cookies, as a person would.
//! - `on_each_home!` writes a test once and runs it on both databases.

mod browser;
mod home;
mod program;
mod server;
mod world;

pub(crate) use browser::{Browser, Page};
pub(crate) use home::{Home, Ran, command};
pub(crate) use program::{Program, peer};
pub(crate) use server::Server;
pub(crate) use world::{World, call, text};

/// Writes a test once and runs it on both databases: `on_each_home! { async fn name(home: Home) { ... } }`.
#[macro_export]
macro_rules! on_each_home {
    ($($(#[$meta:meta])* async fn $name:ident($($home:ident)+: Home) $body:block)*) => {$(
        async fn $name($($home)+: $crate::support::Home) $body

        $(#[$meta])*
        mod $name {
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn sqlite() {
                super::$name($crate::support::Home::sqlite()).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn postgres() {
                super::$name($crate::support::Home::postgres().await).await;
            }
        }
    )*};
}

//! Valet Key: a self-hosted credential broker for AI agents, as a library.
//!
//! A person or a site connects an outside account once. Agents then act through grants that can be narrowed,
//! explained, limited in time and taken back. Nobody but the broker ever holds the keys.

pub mod account;
pub mod agent;
pub mod app_config;
pub mod approval;
pub mod audit;
pub mod base;
mod broker;
pub mod clock;
pub mod compat;
pub mod connect;
pub mod connection;
pub mod context;
pub mod db;
pub mod decision;
pub mod deliver;
pub mod error;
pub mod extend;
pub mod grant;
pub mod id;
pub mod import;
pub mod mail;
pub mod mine;
pub mod oauth;
pub mod oauth1;
pub mod person;
pub mod platform;
pub mod principal;
pub mod proposal;
pub mod provider;
pub mod reach;
pub mod refresh;
pub mod resource;
pub mod revoke;
pub mod scope;
pub mod seal;
pub mod secret;
pub mod session;
pub mod site;
pub mod text;
pub mod token;
pub mod upstream;
pub mod webhook;

pub use broker::{Broker, Settings, Started};
pub use error::{Code, Error, Result};

//! The authorization server for agents.

mod clients;
mod codes;
mod devices;
mod exchange;
mod introspection;
mod refreshing;
mod revoking;
mod world;

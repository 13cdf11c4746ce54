//! Moving in from other systems: what reads their formats, and writes them back.

pub mod data_machine;

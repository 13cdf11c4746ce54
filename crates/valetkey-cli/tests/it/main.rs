//! Tests of the real binary: every one starts it as a process and speaks to it from outside.

mod dev;
mod doctor;
mod keys;
mod main_job;
mod provider;
mod serve;
mod support;

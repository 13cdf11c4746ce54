//! The HTTP faces of Valet Key: the API under `/v1`, the pages, the proxy.

pub mod pages;

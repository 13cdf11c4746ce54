//! Provider definitions.

//! Image configuration and options to an OCI runtime specification (pure).

//! Registries: the client against Debian's `docker-registry`, plain, with passwords, tokens and TLS, and through a proxy
//! that breaks what can break. What is missing on a machine is printed as a skip.

#[path = "../common/mod.rs"]
mod common;

mod answers;
mod auth;
mod client;
mod commands;
mod faults;
mod hostile;
mod hosts;
mod pulling;
mod pushing;
mod resume;
mod shelf;
mod support;

//! Docker's default seccomp profile as data.

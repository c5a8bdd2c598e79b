//! `shale login`.

use std::io::{self, IsTerminal, Read};

use anyhow::{Context as _, bail};
use imagetool::registry::{KeptIn, Registries, Secret, Server};
use imagetool::terminal;

use super::output;
use super::registry_options::RegistryArgs;

/// The longest password that is read from standard input.
const PASSWORD_LIMIT: u64 = 64 << 10;

#[derive(clap::Args)]
#[command(after_help = "Examples:
  shale login registry.example:5000
  shale login -u me --password-stdin registry.example <password.txt")]
pub(crate) struct Args {
    /// The user's name
    #[arg(short, long, value_name = "NAME")]
    username: Option<String>,

    /// The password or access token; others can see it in the list of processes: prefer --password-stdin
    #[arg(short, long, value_name = "TEXT")]
    password: Option<String>,

    /// Read the password or access token from standard input
    #[arg(long)]
    password_stdin: bool,

    #[command(flatten)]
    registry: RegistryArgs,

    /// The registry [default: Docker Hub]
    #[arg(value_name = "HOST[:PORT]")]
    server: Option<String>,
}

impl std::fmt::Debug for Args {
    // without the password
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Args")
            .field("username", &self.username)
            .field("server", &self.server)
            .finish_non_exhaustive()
    }
}

impl Args {
    pub(crate) fn execute(mut self) -> anyhow::Result<u8> {
        let server = Server::parse(self.server.as_deref())?;
        let given = self.given_password()?;
        let registries = self.registry.registries()?;
        if self.username.is_none() && given.is_none() && again(&registries, &server)? {
            output::line("Login Succeeded")?;
            return Ok(0);
        }
        let (user, password) = match (self.username, given) {
            (Some(user), Some(password)) => (user, password),
            (user, given) => ask(user, given)?,
        };
        if user.is_empty() {
            bail!("the user name is empty: give one with --username");
        }
        match registries.login(&server, &user, &password)? {
            KeptIn::File(path) => eprintln!(
                "WARNING! Your credentials are stored unencrypted in '{}'.\n\
                 A credential helper that it names (credsStore) keeps them elsewhere.",
                path.display()
            ),
            KeptIn::Helper(_) => {}
        }
        output::line("Login Succeeded")?;
        Ok(0)
    }

    /// The password that the command line gives, or leads to.
    fn given_password(&mut self) -> anyhow::Result<Option<Secret>> {
        match (self.password.take(), self.password_stdin) {
            (Some(_), true) => {
                bail!("conflicting options: cannot specify both --password and --password-stdin")
            }
            (Some(password), false) => {
                eprintln!("WARNING! Using --password via the CLI is insecure. Use --password-stdin.");
                Ok(Some(Secret::new(password)))
            }
            (None, true) => {
                if self.username.is_none() {
                    bail!("the --password-stdin option requires --username to be set");
                }
                let mut text = String::new();
                let mut input = io::stdin().lock().take(PASSWORD_LIMIT);
                input
                    .read_to_string(&mut text)
                    .context("read the password from standard input")?;
                let password = text.strip_suffix('\n').unwrap_or(&text);
                let password = password.strip_suffix('\r').unwrap_or(password);
                if password.is_empty() {
                    bail!("the password on standard input is empty");
                }
                Ok(Some(Secret::new(password)))
            }
            (None, false) => Ok(None),
        }
    }
}

/// Tries the credentials that are kept; false when others are to be asked for.
fn again(registries: &Registries, server: &Server) -> anyhow::Result<bool> {
    match registries.login_again(server) {
        Ok(true) => {
            eprintln!("Authenticating with existing credentials...");
            Ok(true)
        }
        Ok(false) => Ok(false),
        Err(error) if error.is_unauthorized() => {
            eprintln!("Authenticating with existing credentials...\nLogin did not succeed, error: {error}");
            Ok(false)
        }
        Err(error) => Err(error.into()),
    }
}

/// Asks for what is missing; there must be someone to ask.
fn ask(user: Option<String>, password: Option<Secret>) -> anyhow::Result<(String, Secret)> {
    if !io::stdin().is_terminal() {
        bail!("Cannot perform an interactive login from a non TTY device");
    }
    let user = match user {
        Some(user) => user,
        None => terminal::ask("Username: ", true).context("ask for the user name")?,
    };
    let password = match password {
        Some(password) => password,
        None => Secret::new(terminal::ask("Password: ", false).context("ask for the password")?),
    };
    Ok((user, password))
}

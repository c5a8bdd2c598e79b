//! The parts of a parsed template. Their `Display` is what errors quote.

use std::collections::HashMap;
use std::fmt;

use super::value::Val;

/// A whole template: its own nodes and the templates it defines.
#[derive(Debug, Clone, Default)]
pub(super) struct Parsed {
    pub(super) nodes: Vec<Node>,
    pub(super) defined: HashMap<String, Vec<Node>>,
}

#[derive(Debug, Clone)]
pub(super) enum Node {
    Text(String),
    Action(Pipe),
    Block {
        word: Block,
        subject: Pipe,
        body: Vec<Node>,
        otherwise: Vec<Node>,
    },
    Call(Call),
    Break,
    Continue,
}

/// `{{template "name" pipeline}}`
#[derive(Debug, Clone)]
pub(super) struct Call {
    pub(super) at: usize,
    pub(super) name: String,
    pub(super) argument: Option<Pipe>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Block {
    If,
    Range,
    With,
}

/// A pipeline, perhaps with variables that get its value.
#[derive(Debug, Clone)]
pub(super) struct Pipe {
    pub(super) variables: Vec<String>,
    pub(super) assigns: bool,
    pub(super) commands: Vec<Command>,
}

#[derive(Debug, Clone)]
pub(super) struct Command {
    pub(super) at: usize,
    pub(super) words: Vec<Operand>,
}

#[derive(Debug, Clone)]
pub(super) struct Operand {
    /// Its place; that of the second field where there are several, as in Go.
    pub(super) at: usize,
    pub(super) what: What,
    /// Fields of it.
    pub(super) fields: Vec<String>,
}

#[derive(Debug, Clone)]
pub(super) enum What {
    /// `.`, or `.A` with fields.
    Dot,
    /// `$x`, with its `$`.
    Variable(String),
    Function(String),
    Nil,
    /// A constant, and how it was written.
    Constant(Val, String),
    Group(Box<Pipe>),
}

impl fmt::Display for Operand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.what {
            What::Dot if self.fields.is_empty() => f.write_str(".")?,
            What::Dot => {}
            What::Variable(name) | What::Function(name) => f.write_str(name)?,
            What::Nil => f.write_str("nil")?,
            What::Constant(_, source) => f.write_str(source)?,
            What::Group(pipe) => write!(f, "({pipe})")?,
        }
        self.fields.iter().try_for_each(|field| write!(f, ".{field}"))
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        join(f, &self.words, " ")
    }
}

impl fmt::Display for Pipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.variables.is_empty() {
            join(f, &self.variables, ", ")?;
            f.write_str(if self.assigns { " = " } else { " := " })?;
        }
        join(f, &self.commands, " | ")
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{{{template {}", super::printf::quote(&self.name))?;
        if let Some(argument) = &self.argument {
            write!(f, " {argument}")?;
        }
        f.write_str("}}")
    }
}

fn join(f: &mut fmt::Formatter<'_>, items: &[impl fmt::Display], separator: &str) -> fmt::Result {
    for (at, item) in items.iter().enumerate() {
        if at > 0 {
            f.write_str(separator)?;
        }
        write!(f, "{item}")?;
    }
    Ok(())
}

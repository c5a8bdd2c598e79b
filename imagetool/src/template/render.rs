//! Nodes become text. The words and places of the errors are Go's.

use std::fmt::Display;

use super::functions::{self, CallError};
use super::node::{Block, Call, Command, Node, Operand, Pipe, What};
use super::value::{Map, ROW, Val};
use super::{DEPTH_MAX, Template, TemplateError, printf};
use crate::shape;

/// So many times the bodies of all `range` blocks together are filled in at most.
const ROUNDS_MAX: usize = 10_000_000;
/// So long the whole text, and each that a function makes, may become.
const TEXT_BYTES_MAX: usize = 64 << 20;

/// Fills a template in. Of a heading an error ends the text, as in Docker: the rows tell it.
pub(super) fn render(template: &Template, dot: Val, heading: bool) -> Result<String, TemplateError> {
    let mut renderer = Renderer {
        template,
        executing: &template.name,
        variables: vec![("$".to_owned(), dot.clone())],
        out: String::new(),
        depth: 0,
        rounds: 0,
        heading,
    };
    let outcome = renderer.nodes(&template.parsed.nodes, &dot);
    match outcome {
        Err(error) if !heading => Err(error),
        _ => Ok(renderer.out),
    }
}

/// Where a list of nodes ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    Through,
    Break,
    Continue,
}

struct Renderer<'a> {
    template: &'a Template,
    /// Name of the template that is being filled in.
    executing: &'a str,
    /// The innermost last.
    variables: Vec<(String, Val)>,
    out: String,
    /// Templates that have called each other.
    depth: usize,
    rounds: usize,
    heading: bool,
}

impl<'a> Renderer<'a> {
    fn fail<T>(&self, at: usize, node: impl Display, text: impl Display) -> Result<T, TemplateError> {
        let before = self.template.source.get(..at).unwrap_or_default();
        let line = 1 + before.matches('\n').count();
        let column = before.rfind('\n').map_or(at, |last| at - last - 1);
        Err(TemplateError(format!(
            "{}:{line}:{column}: executing {} at <{node}>: {text}",
            self.template.name,
            printf::quote(self.executing)
        )))
    }

    fn nodes(&mut self, nodes: &'a [Node], dot: &Val) -> Result<Flow, TemplateError> {
        for node in nodes {
            let flow = match node {
                Node::Text(text) => {
                    self.out.push_str(text);
                    Flow::Through
                }
                Node::Action(pipe) => {
                    let value = self.pipe(pipe, dot)?;
                    if pipe.variables.is_empty() {
                        self.out.push_str(&value.print());
                    }
                    Flow::Through
                }
                Node::Block {
                    word,
                    subject,
                    body,
                    otherwise,
                } => self.block(*word, subject, (body, otherwise), dot)?,
                Node::Call(call) => {
                    self.call(call, dot)?;
                    Flow::Through
                }
                Node::Break => Flow::Break,
                Node::Continue => Flow::Continue,
            };
            if flow != Flow::Through {
                return Ok(flow);
            }
        }
        Ok(Flow::Through)
    }

    fn block(
        &mut self,
        word: Block,
        subject: &'a Pipe,
        (body, otherwise): (&'a [Node], &'a [Node]),
        dot: &Val,
    ) -> Result<Flow, TemplateError> {
        let outer = self.variables.len();
        let value = self.pipe(subject, dot)?;
        let flow = match word {
            Block::If if value.is_true() => self.nodes(body, dot)?,
            Block::With if value.is_true() => self.nodes(body, &value)?,
            Block::Range => match self.range(subject, &value, body)? {
                0 => self.nodes(otherwise, dot)?,
                _ => Flow::Through,
            },
            _ => self.nodes(otherwise, dot)?,
        };
        self.variables.truncate(outer);
        Ok(flow)
    }

    /// Fills the body in for each item; gives their number.
    fn range(&mut self, subject: &'a Pipe, value: &Val, body: &'a [Node]) -> Result<usize, TemplateError> {
        let mut count = 0;
        match value {
            Val::List(list) => {
                for item in &list.items {
                    let number = Val::Int(i64::try_from(count).unwrap_or(i64::MAX));
                    count += 1;
                    if self.round(subject, (number, item.clone()), body)? == Flow::Break {
                        break;
                    }
                }
            }
            Val::Map(map) => {
                for (key, item) in &map.entries {
                    count += 1;
                    if self.round(subject, (Val::Text(key.clone()), item.clone()), body)? == Flow::Break {
                        break;
                    }
                }
            }
            Val::Int(end) => {
                for number in 0..*end {
                    count += 1;
                    if self.round(subject, (Val::Int(number), Val::Int(number)), body)? == Flow::Break {
                        break;
                    }
                }
            }
            Val::Absent | Val::Null => {}
            other => {
                let first = subject.commands.first();
                let (at, node) = first.map_or((0, String::new()), |command| {
                    (at_of(command), subject_text(subject))
                });
                return self.fail(at, node, format!("range can't iterate over {}", other.print()));
            }
        }
        Ok(count)
    }

    fn round(
        &mut self,
        subject: &Pipe,
        (key, item): (Val, Val),
        body: &'a [Node],
    ) -> Result<Flow, TemplateError> {
        self.rounds += 1;
        if self.rounds > ROUNDS_MAX || self.out.len() > TEXT_BYTES_MAX {
            let at = subject.commands.first().map_or(0, at_of);
            return self.fail(at, subject_text(subject), "it goes on for too long");
        }
        let outer = self.variables.len();
        let values = match subject.variables.len() {
            0 => Vec::new(),
            1 => vec![item.clone()],
            _ => vec![key, item.clone()],
        };
        for (name, value) in subject.variables.iter().zip(values) {
            self.set(name, value, subject.assigns);
        }
        let flow = self.nodes(body, &item)?;
        self.variables.truncate(outer);
        Ok(flow)
    }

    fn call(&mut self, call: &'a Call, dot: &Val) -> Result<(), TemplateError> {
        let Some((name, nodes)) = self.template.parsed.defined.get_key_value(&call.name) else {
            let name = printf::quote(&call.name);
            return self.fail(call.at, call, format!("template {name} not defined"));
        };
        if self.depth >= DEPTH_MAX {
            return self.fail(
                call.at,
                call,
                format!("exceeded maximum template depth ({DEPTH_MAX})"),
            );
        }
        let dot = match &call.argument {
            Some(argument) => self.pipe(argument, dot)?,
            None => Val::Absent,
        };
        let variables = std::mem::replace(&mut self.variables, vec![("$".to_owned(), dot.clone())]);
        let executing = std::mem::replace(&mut self.executing, name);
        self.depth += 1;
        self.nodes(nodes, &dot)?;
        self.depth -= 1;
        self.variables = variables;
        self.executing = executing;
        Ok(())
    }

    fn set(&mut self, name: &str, value: Val, assigns: bool) {
        if !assigns {
            self.variables.push((name.to_owned(), value));
        } else if let Some((_, old)) = self.variables.iter_mut().rfind(|(known, _)| known == name) {
            *old = value;
        }
    }

    fn pipe(&mut self, pipe: &'a Pipe, dot: &Val) -> Result<Val, TemplateError> {
        let mut piped = None;
        for command in &pipe.commands {
            piped = Some(self.command(command, dot, piped)?);
        }
        let value = piped.unwrap_or(Val::Absent);
        // (a range block sets them anew for each item)
        for name in &pipe.variables {
            self.set(name, value.clone(), pipe.assigns);
        }
        Ok(value)
    }

    fn command(&mut self, command: &'a Command, dot: &Val, piped: Option<Val>) -> Result<Val, TemplateError> {
        let Some((first, others)) = command.words.split_first() else {
            return Ok(Val::Absent);
        };
        let alone = others.is_empty() && piped.is_none();
        match &first.what {
            What::Function(name) if first.fields.is_empty() => {
                self.function(first, name, (command.at, command), others, dot, piped)
            }
            What::Nil => self.fail(first.at, first, "nil is not a command"),
            _ if alone => self.operand(first, dot),
            What::Dot | What::Variable(_) | What::Group(_) if !first.fields.is_empty() => {
                let mut arguments = Vec::new();
                for operand in others {
                    arguments.push(self.operand(operand, dot)?);
                }
                arguments.extend(piped);
                self.method(first, &arguments, dot)
            }
            _ => self.fail(
                first.at,
                first,
                format!("can't give argument to non-function {first}"),
            ),
        }
    }

    /// The only method that a value has: `.Label "key"` of a row.
    fn method(&mut self, operand: &'a Operand, arguments: &[Val], dot: &Val) -> Result<Val, TemplateError> {
        let field = operand.fields.last().map_or("", String::as_str);
        let text = match (dot, arguments) {
            (Val::Map(row), [Val::Text(key)]) if row.name == ROW && operand.fields == ["Label"] => {
                if let Some(Val::Map(labels)) = row.get(".Labels") {
                    return Ok(labels
                        .get(key)
                        .cloned()
                        .unwrap_or_else(|| Val::Text(String::new())));
                }
                format!("can't evaluate field {field} in this row")
            }
            (Val::Map(_), [Val::Text(key)]) if self.heading && operand.fields == ["Label"] => {
                return Ok(Val::Text(key.clone()));
            }
            _ => format!("{field} is not a method but has arguments"),
        };
        self.fail(operand.at, operand, text)
    }

    fn function(
        &mut self,
        operand: &Operand,
        name: &'a str,
        command: (usize, &dyn Display),
        arguments: &'a [Operand],
        dot: &Val,
        piped: Option<Val>,
    ) -> Result<Val, TemplateError> {
        let count = arguments.len() + usize::from(piped.is_some());
        if let Some(text) = functions::wrong_count(name, count) {
            return self.fail(operand.at, operand, text);
        }
        let mut values = Vec::with_capacity(count);
        for argument in arguments {
            let value = self.operand(argument, dot)?;
            // and, or: what comes after the one that decides is not looked at
            if (name == "or" && value.is_true()) || (name == "and" && !value.is_true()) {
                return Ok(value);
            }
            values.push(value);
        }
        values.extend(piped);
        match functions::call(name, &values, self.heading) {
            Ok(Val::Text(text)) if text.len() > TEXT_BYTES_MAX => self.fail(
                command.0,
                command.1,
                format!("error calling {name}: the text is too long"),
            ),
            Ok(value) => Ok(value),
            Err(CallError::Argument(number, text)) => match arguments.get(number) {
                Some(argument) => self.fail(argument.at, argument, text),
                None => self.fail(operand.at, operand, text),
            },
            Err(CallError::Failed(text)) => {
                self.fail(command.0, command.1, format!("error calling {name}: {text}"))
            }
        }
    }

    fn operand(&mut self, operand: &'a Operand, dot: &Val) -> Result<Val, TemplateError> {
        let mut value = match &operand.what {
            What::Dot => dot.clone(),
            What::Variable(name) => {
                let found = self.variables.iter().rfind(|(known, _)| known == name);
                found.map_or(Val::Absent, |(_, value)| value.clone())
            }
            What::Function(name) => self.function(operand, name, (operand.at, operand), &[], dot, None)?,
            What::Nil => Val::Null,
            What::Constant(value, _) => value.clone(),
            What::Group(pipe) => self.pipe(pipe, dot)?,
        };
        for field in &operand.fields {
            value = match field_of(&value, field) {
                Ok(value) => value,
                Err(text) => return self.fail(operand.at, operand, text),
            };
        }
        Ok(value)
    }
}

fn at_of(command: &Command) -> usize {
    command.words.first().map_or(command.at, |first| first.at)
}

/// The subject of a block, as errors quote it: without its variables.
fn subject_text(pipe: &Pipe) -> String {
    let texts: Vec<String> = pipe.commands.iter().map(ToString::to_string).collect();
    texts.join(" | ")
}

fn field_of(value: &Val, field: &str) -> Result<Val, String> {
    match value {
        Val::Map(map) => member(map, field),
        Val::Absent | Val::Null => Err(format!("nil pointer evaluating interface {{}}.{field}")),
        other => Err(format!(
            "can't evaluate field {field} in type {}",
            other.type_name()
        )),
    }
}

fn member(map: &Map, field: &str) -> Result<Val, String> {
    let alias = match field {
        "ID" => "Id",
        "Id" => "ID",
        same => same,
    };
    if let Some(value) = map.get(field) {
        return Ok(value.clone());
    }
    if map.is_free() {
        return Ok(Val::Absent);
    }
    if let Some(value) = map.get(alias) {
        return Ok(value.clone());
    }
    let zero = match map.name.as_str() {
        "Config" => shape::zero_of_config(field),
        "" if matches!(field, "Variant" | "OsVersion") => Some(serde_json::Value::from("")),
        _ => None,
    };
    if let Some(zero) = zero {
        return Ok(Val::of(field, &zero));
    }
    if map.name == ROW {
        let names = map.entries.iter().map(|(name, _)| name.as_str());
        let known: Vec<&str> = names.filter(|name| !name.starts_with('.')).collect();
        return Err(format!(
            "can't evaluate field {field} in this row, which has {}",
            known.join(", ")
        ));
    }
    Err(format!("map has no entry for key {}", printf::quote(field)))
}

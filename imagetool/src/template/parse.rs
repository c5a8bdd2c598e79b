//! Tokens become nodes. The words of the errors are Go's.

use super::lex::{Kind, Token, tokens};
use super::node::{Block, Call, Command, Node, Operand, Parsed, Pipe, What};
use super::value::Val;
use super::{DEPTH_MAX, TemplateError, functions, printf};

/// What is wrong, and from where on.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) at: usize,
    pub(super) text: String,
}

/// Parses a template.
pub(super) fn parse(name: &str, text: &str) -> Result<Parsed, TemplateError> {
    let told = |fault: Fault| {
        let before = text.as_bytes().get(..fault.at).unwrap_or_default();
        let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
        TemplateError(format!("{name}:{line}: {}", fault.text))
    };
    let mut parser = Parser {
        tokens: tokens(text).map_err(told)?,
        next: 0,
        depth: 0,
        loops: 0,
        variables: vec!["$".to_owned()],
        parsed: Parsed::default(),
    };
    let (nodes, end) = parser.nodes().map_err(told)?;
    if let Some(end) = end {
        return Err(told(end.unexpected()));
    }
    parser.parsed.nodes = nodes;
    Ok(parser.parsed)
}

struct Parser {
    tokens: Vec<Token>,
    next: usize,
    /// Open blocks and parentheses.
    depth: usize,
    /// Open `range` blocks.
    loops: usize,
    /// Variables that can be seen, with their `$`.
    variables: Vec<String>,
    parsed: Parsed,
}

/// What ended a list of nodes: `{{end}}` or `{{else …}}`, of which the word is read.
struct Ending {
    at: usize,
    is_else: bool,
}

impl Ending {
    fn word(&self) -> &'static str {
        if self.is_else { "{{else}}" } else { "{{end}}" }
    }

    fn unexpected(&self) -> Fault {
        Fault {
            at: self.at,
            text: format!("unexpected {}", self.word()),
        }
    }
}

type Nodes = (Vec<Node>, Option<Ending>);

impl Parser {
    fn peek(&self) -> &Token {
        // the end is never passed
        &self.tokens[self.next]
    }

    fn take(&mut self) -> Token {
        let token = self.tokens[self.next].clone();
        if token.kind != Kind::End {
            self.next += 1;
        }
        token
    }

    fn skip_blanks(&mut self) {
        while self.peek().kind == Kind::Space {
            self.next += 1;
        }
    }

    fn take_after_blanks(&mut self) -> Token {
        self.skip_blanks();
        self.take()
    }

    fn fail<T>(&self, text: impl Into<String>) -> Result<T, Fault> {
        let at = self.peek().at;
        Err(Fault {
            at,
            text: text.into(),
        })
    }

    fn unexpected<T>(&self, token: &Token, context: &str) -> Result<T, Fault> {
        Err(Fault {
            at: token.at,
            text: format!("unexpected {} in {context}", token.quoted()),
        })
    }

    fn deeper(&mut self) -> Result<(), Fault> {
        self.depth += 1;
        match self.depth > DEPTH_MAX {
            true => self.fail(format!("nested more than {DEPTH_MAX} deep")),
            false => Ok(()),
        }
    }

    /// Nodes up to what ends them, or to the end of the text.
    fn nodes(&mut self) -> Result<Nodes, Fault> {
        self.deeper()?;
        let mut nodes = Vec::new();
        let ending = loop {
            let token = self.take();
            match token.kind {
                Kind::End => break None,
                Kind::Text => nodes.push(Node::Text(token.text)),
                _ => {
                    self.skip_blanks();
                    if self.peek().kind == Kind::Keyword {
                        let word = self.take();
                        if let Some(ending) = self.keyword(&word, &mut nodes)? {
                            break Some(ending);
                        }
                    } else {
                        nodes.push(Node::Action(self.pipeline("command", Kind::Right)?));
                    }
                }
            }
        };
        self.depth -= 1;
        Ok((nodes, ending))
    }

    fn keyword(&mut self, word: &Token, nodes: &mut Vec<Node>) -> Result<Option<Ending>, Fault> {
        match word.text.as_str() {
            "if" => nodes.push(self.block(Block::If)?),
            "range" => nodes.push(self.block(Block::Range)?),
            "with" => nodes.push(self.block(Block::With)?),
            "break" | "continue" => {
                self.close(&word.text)?;
                if self.loops == 0 {
                    return self.fail(format!("{{{{{}}}}} outside {{{{range}}}}", word.text));
                }
                nodes.push(if word.text == "break" {
                    Node::Break
                } else {
                    Node::Continue
                });
            }
            "define" => {
                let name = self.template_name("define clause")?;
                self.close("define clause")?;
                self.define(name)?;
            }
            "template" => nodes.push(Node::Call(self.call("template clause")?)),
            "block" => {
                let call = self.call("block clause")?;
                self.define(call.name.clone())?;
                nodes.push(Node::Call(call));
            }
            "end" => {
                self.close("end")?;
                return Ok(Some(Ending {
                    at: word.at,
                    is_else: false,
                }));
            }
            _ => {
                return Ok(Some(Ending {
                    at: word.at,
                    is_else: true,
                }));
            }
        }
        Ok(None)
    }

    /// The end of an action that has nothing more.
    fn close(&mut self, context: &str) -> Result<(), Fault> {
        let token = self.take_after_blanks();
        match token.kind {
            Kind::Right => Ok(()),
            _ => self.unexpected(&token, context),
        }
    }

    fn block(&mut self, word: Block) -> Result<Node, Fault> {
        self.deeper()?;
        let seen = self.variables.len();
        let context = match word {
            Block::If => "if",
            Block::Range => "range",
            Block::With => "with",
        };
        let subject = self.pipeline(context, Kind::Right)?;
        self.loops += usize::from(word == Block::Range);
        let (body, ending) = self.nodes()?;
        self.loops -= usize::from(word == Block::Range);
        let otherwise = match ending {
            Some(ending) if ending.is_else => self.otherwise(word)?,
            Some(_) => Vec::new(),
            None => return self.fail("unexpected EOF"),
        };
        self.variables.truncate(seen);
        self.depth -= 1;
        Ok(Node::Block {
            word,
            subject,
            body,
            otherwise,
        })
    }

    /// What follows `{{else`: a block of the same kind, or nodes up to `{{end}}`.
    fn otherwise(&mut self, word: Block) -> Result<Vec<Node>, Fault> {
        self.skip_blanks();
        let next = (self.peek().text.as_str(), self.peek().kind, word);
        let again = matches!(
            next,
            ("if", Kind::Keyword, Block::If) | ("with", Kind::Keyword, Block::With)
        );
        if again {
            self.take();
            // its {{end}} ends this block too
            return Ok(vec![self.block(word)?]);
        }
        self.close("else")?;
        match self.nodes()? {
            (nodes, Some(ending)) if !ending.is_else => Ok(nodes),
            (_, Some(ending)) => Err(Fault {
                at: ending.at,
                text: format!("expected end; found {}", ending.word()),
            }),
            (_, None) => self.fail("unexpected EOF"),
        }
    }

    fn template_name(&mut self, context: &str) -> Result<String, Fault> {
        let token = self.take_after_blanks();
        match token.kind {
            Kind::Quoted | Kind::Raw => self.text_of(&token),
            _ => self.unexpected(&token, context),
        }
    }

    fn call(&mut self, context: &str) -> Result<Call, Fault> {
        self.skip_blanks();
        let at = self.peek().at;
        let name = self.template_name(context)?;
        self.skip_blanks();
        let argument = match self.peek().kind {
            Kind::Right => {
                self.take();
                None
            }
            _ => Some(self.pipeline(context, Kind::Right)?),
        };
        Ok(Call { at, name, argument })
    }

    fn define(&mut self, name: String) -> Result<(), Fault> {
        let outer = std::mem::replace(&mut self.variables, vec!["$".to_owned()]);
        let loops = std::mem::take(&mut self.loops);
        match self.nodes()? {
            (nodes, Some(ending)) if !ending.is_else => {
                self.parsed.defined.insert(name, nodes);
            }
            (_, Some(ending)) => return Err(ending.unexpected()),
            (_, None) => return self.fail("unexpected EOF"),
        }
        self.variables = outer;
        self.loops = loops;
        Ok(())
    }

    fn pipeline(&mut self, context: &str, end: Kind) -> Result<Pipe, Fault> {
        self.deeper()?;
        let (variables, assigns) = self.declarations(context)?;
        let mut commands: Vec<Command> = Vec::new();
        loop {
            let token = self.take_after_blanks();
            match token.kind {
                kind if kind == end => break,
                Kind::Bool
                | Kind::Character
                | Kind::Dot
                | Kind::Field
                | Kind::Identifier
                | Kind::Number
                | Kind::Nil
                | Kind::Raw
                | Kind::Quoted
                | Kind::Variable
                | Kind::Open => {
                    self.next -= 1;
                    commands.push(self.command()?);
                }
                _ => return self.unexpected(&token, context),
            }
        }
        if commands.is_empty() {
            return self.fail(format!("missing value for {context}"));
        }
        for (at, command) in commands.iter().enumerate().skip(1) {
            let first = command.words.first();
            let fixed = |operand: &Operand| {
                let bare = matches!(operand.what, What::Constant(..) | What::Nil | What::Dot);
                bare && operand.fields.is_empty()
            };
            if first.is_some_and(fixed) {
                return self.fail(format!("non executable command in pipeline stage {}", at + 1));
            }
        }
        self.depth -= 1;
        Ok(Pipe {
            variables,
            assigns,
            commands,
        })
    }

    /// `$x :=`, `$x =`, `$i, $x :=`; the variables, and whether they are only assigned to.
    fn declarations(&mut self, context: &str) -> Result<(Vec<String>, bool), Fault> {
        let mut names = Vec::new();
        loop {
            self.skip_blanks();
            let start = self.next;
            if self.peek().kind != Kind::Variable {
                return Ok((names, false));
            }
            let name = self.take().text;
            let token = self.take_after_blanks();
            match token.kind {
                Kind::Assign | Kind::Declare => {
                    let assigns = token.kind == Kind::Assign;
                    if assigns {
                        for name in names.iter().chain([&name]) {
                            self.check_variable(name)?;
                        }
                    } else {
                        self.variables.extend(names.iter().cloned().chain([name.clone()]));
                    }
                    names.push(name);
                    return Ok((names, assigns));
                }
                Kind::Sign if token.text == "," => {
                    names.push(name);
                    if context != "range" || names.len() > 1 {
                        return self.fail(format!("too many declarations in {context}"));
                    }
                    self.skip_blanks();
                    if self.peek().kind != Kind::Variable {
                        return self.fail("range can only initialize variables");
                    }
                }
                _ => {
                    self.next = start;
                    return Ok((names, false));
                }
            }
        }
    }

    fn check_variable(&self, name: &str) -> Result<(), Fault> {
        if self.variables.iter().any(|known| known == name) {
            return Ok(());
        }
        self.fail(format!("undefined variable {}", printf::quote(name)))
    }

    fn command(&mut self) -> Result<Command, Fault> {
        self.skip_blanks();
        let at = self.peek().at;
        let mut words = Vec::new();
        loop {
            self.skip_blanks();
            words.extend(self.operand()?);
            let token = self.take();
            match token.kind {
                Kind::Space => {}
                Kind::Right | Kind::Close => {
                    self.next -= 1;
                    break;
                }
                Kind::Pipe => break,
                _ => return self.unexpected(&token, "operand"),
            }
        }
        if words.is_empty() {
            return self.fail("empty command");
        }
        Ok(Command { at, words })
    }

    /// An operand with its fields; `None` where something else stands.
    fn operand(&mut self) -> Result<Option<Operand>, Fault> {
        let token = self.take();
        let mut at = token.at;
        let mut fields = Vec::new();
        let what = match token.kind {
            Kind::Field => {
                fields.push(token.text[1..].to_owned());
                What::Dot
            }
            Kind::Dot => What::Dot,
            Kind::Nil => What::Nil,
            Kind::Variable => {
                self.check_variable(&token.text)?;
                What::Variable(token.text.clone())
            }
            Kind::Identifier if functions::is_known(&token.text) => What::Function(token.text.clone()),
            Kind::Identifier => {
                let name = printf::quote(&token.text);
                return self.fail(format!("function {name} not defined"));
            }
            Kind::Bool => What::Constant(Val::Bool(token.text == "true"), token.text.clone()),
            Kind::Number => What::Constant(self.number(&token.text)?, token.text.clone()),
            Kind::Character => What::Constant(self.character(&token)?, token.text.clone()),
            Kind::Quoted | Kind::Raw => What::Constant(Val::Text(self.text_of(&token)?), token.text.clone()),
            Kind::Open => What::Group(Box::new(self.pipeline("parenthesized pipeline", Kind::Close)?)),
            Kind::End => return Ok(None),
            _ => {
                self.next -= 1;
                return Ok(None);
            }
        };
        if self.peek().kind == Kind::Field {
            let constant = matches!(what, What::Constant(..) | What::Nil)
                || (matches!(what, What::Dot) && fields.is_empty());
            if constant {
                return self.fail(format!("unexpected . after term {}", printf::quote(&token.text)));
            }
            at = self.peek().at;
        }
        while self.peek().kind == Kind::Field {
            fields.push(self.take().text[1..].to_owned());
        }
        Ok(Some(Operand { at, what, fields }))
    }

    fn text_of(&self, token: &Token) -> Result<String, Fault> {
        let inner = &token.text[1..token.text.len() - 1];
        if token.kind == Kind::Raw {
            return Ok(inner.replace('\r', ""));
        }
        match printf::unquote(inner) {
            Some(text) => Ok(text),
            None => self.fail("invalid syntax"),
        }
    }

    fn character(&self, token: &Token) -> Result<Val, Fault> {
        let text = printf::unquote(&token.text[1..token.text.len() - 1]);
        let mut signs = text.as_deref().unwrap_or_default().chars();
        match (signs.next(), signs.next()) {
            (Some(sign), None) => Ok(Val::Int(i64::from(u32::from(sign)))),
            _ => self.fail(format!("malformed character constant: {}", token.text)),
        }
    }

    fn number(&self, text: &str) -> Result<Val, Fault> {
        let plain = text.replace('_', "").to_ascii_lowercase();
        let (negative, digits) = match plain.strip_prefix(['+', '-']) {
            Some(digits) => (plain.starts_with('-'), digits),
            None => (false, plain.as_str()),
        };
        let prefixed = [("0x", 16), ("0o", 8), ("0b", 2)];
        let (digits, radix) = prefixed
            .iter()
            .find_map(|(prefix, radix)| Some((digits.strip_prefix(prefix)?, *radix)))
            .unwrap_or(match digits.strip_prefix('0') {
                Some(rest) if !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_digit()) => (rest, 8),
                _ => (digits, 10),
            });
        if let Ok(number) = i128::from_str_radix(digits, radix)
            && let Ok(number) = i64::try_from(if negative { -number } else { number })
        {
            return Ok(Val::Int(number));
        }
        let is_number = radix == 10 && digits.contains(|sign: char| sign.is_ascii_digit());
        match plain.parse::<f64>() {
            Ok(number) if is_number && number.is_finite() => Ok(Val::Float(number)),
            _ => self.fail(format!("illegal number syntax: {}", printf::quote(text))),
        }
    }
}

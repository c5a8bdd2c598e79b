//! A template's text becomes tokens, each with its place (a byte offset). Words of the errors are Go's.

use super::parse::Fault;

/// What a token is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Text between actions.
    Text,
    /// `{{`
    Left,
    /// `}}`
    Right,
    /// Blanks within an action.
    Space,
    /// A function's name.
    Identifier,
    /// `if`, `range` …
    Keyword,
    /// `.Name`
    Field,
    /// `$name`
    Variable,
    Dot,
    Nil,
    Bool,
    Number,
    /// `'c'`
    Character,
    /// `"…"`
    Quoted,
    /// `` `…` ``
    Raw,
    Open,
    Close,
    Pipe,
    /// `:=`
    Declare,
    /// `=`
    Assign,
    /// A sign that means nothing.
    Sign,
    End,
}

/// A token.
#[derive(Debug, Clone)]
pub(super) struct Token {
    pub(super) kind: Kind,
    pub(super) at: usize,
    pub(super) text: String,
}

impl Token {
    /// As messages quote it.
    pub(super) fn quoted(&self) -> String {
        match self.kind {
            Kind::End => "EOF".to_owned(),
            Kind::Keyword | Kind::Dot | Kind::Nil => format!("<{}>", self.text),
            _ if self.text.chars().count() > 10 => {
                let short: String = self.text.chars().take(10).collect();
                format!("{}...", super::printf::quote(&short))
            }
            _ => super::printf::quote(&self.text),
        }
    }
}

const KEYWORDS: [&str; 10] = [
    "block", "break", "continue", "define", "else", "end", "if", "range", "template", "with",
];

/// All tokens; the last one is the end.
pub(super) fn tokens(text: &str) -> Result<Vec<Token>, Fault> {
    let mut lexer = Lexer {
        text,
        at: 0,
        tokens: Vec::new(),
    };
    lexer.text()?;
    lexer.push(Kind::End, text.len(), text.len());
    Ok(lexer.tokens)
}

struct Lexer<'a> {
    text: &'a str,
    at: usize,
    tokens: Vec<Token>,
}

fn is_blank(sign: char) -> bool {
    matches!(sign, ' ' | '\t' | '\r' | '\n')
}

fn is_alphanumeric(sign: char) -> bool {
    sign == '_' || sign.is_alphanumeric()
}

/// As Go's `%#U` writes a character.
fn unicode(sign: char) -> String {
    let code = u32::from(sign);
    if sign.is_control() {
        format!("U+{code:04X}")
    } else {
        format!("U+{code:04X} '{sign}'")
    }
}

impl<'a> Lexer<'a> {
    fn push(&mut self, kind: Kind, from: usize, to: usize) {
        let text = self.text[from..to].to_owned();
        self.tokens.push(Token { kind, at: from, text });
    }

    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn fail<T>(&self, text: impl Into<String>) -> Result<T, Fault> {
        Err(Fault {
            at: self.at,
            text: text.into(),
        })
    }

    fn text(&mut self) -> Result<(), Fault> {
        let mut trim = false;
        loop {
            let from = if trim {
                self.text.len() - self.rest().trim_start_matches(is_blank).len()
            } else {
                self.at
            };
            let Some(found) = self.text[from..].find("{{") else {
                if from < self.text.len() {
                    self.push(Kind::Text, from, self.text.len());
                }
                self.at = self.text.len();
                return Ok(());
            };
            let left = from + found;
            self.at = left + 2;
            let mut to = left;
            let after = self.rest();
            let mut inside = after;
            if after.starts_with('-') && after[1..].starts_with(is_blank) {
                to = from + self.text[from..left].trim_end_matches(is_blank).len();
                self.at += 1;
                inside = &after[2..];
            }
            if to > from {
                self.push(Kind::Text, from, to);
            }
            if inside.starts_with("/*") {
                trim = self.comment()?;
                continue;
            }
            self.push(Kind::Left, left, left + 2);
            trim = self.action()?;
        }
    }

    /// Skips a comment up to the end of its action; tells whether blanks after it go.
    fn comment(&mut self) -> Result<bool, Fault> {
        let Some(end) = self.rest().find("*/") else {
            return self.fail("unclosed comment");
        };
        self.at += end + 2;
        let rest = self.rest();
        if rest.starts_with("}}") {
            self.at += 2;
            return Ok(false);
        }
        if rest.starts_with(is_blank) && rest[1..].starts_with("-}}") {
            self.at += 4;
            return Ok(true);
        }
        self.fail("comment ends before closing delimiter")
    }

    /// The tokens of an action; tells whether blanks after it go.
    fn action(&mut self) -> Result<bool, Fault> {
        let mut depth = 0usize;
        loop {
            let rest = self.rest();
            let trims = rest.starts_with(is_blank) && rest[1..].starts_with("-}}");
            if trims || rest.starts_with("}}") {
                if depth > 0 {
                    return self.fail("unclosed left paren");
                }
                let right = self.at + if trims { 2 } else { 0 };
                self.at = right + 2;
                self.push(Kind::Right, right, self.at);
                return Ok(trims);
            }
            let Some(sign) = self.peek() else {
                return self.fail("unclosed action");
            };
            match sign {
                '(' => depth += 1,
                ')' if depth == 0 => return self.fail("unexpected right paren"),
                ')' => depth -= 1,
                _ => {}
            }
            self.token(sign)?;
        }
    }

    fn token(&mut self, sign: char) -> Result<(), Fault> {
        let from = self.at;
        let rest = self.rest();
        let (kind, length) = match sign {
            _ if is_blank(sign) => {
                // the last blank may belong to " -}}"
                let mut length = rest.len() - rest.trim_start_matches(is_blank).len();
                if length > 1 && rest[length..].starts_with("-}}") {
                    length -= 1;
                }
                (Kind::Space, length)
            }
            '=' => (Kind::Assign, 1),
            ':' if rest.starts_with(":=") => (Kind::Declare, 2),
            ':' => return self.fail("expected :="),
            '|' => (Kind::Pipe, 1),
            '(' => (Kind::Open, 1),
            ')' => (Kind::Close, 1),
            '"' | '\'' => return self.quoted(sign),
            '`' => match rest[1..].find('`') {
                Some(end) => (Kind::Raw, end + 2),
                None => return self.fail("unterminated raw quoted string"),
            },
            '.' if !rest[1..].starts_with(|next: char| next.is_ascii_digit()) => {
                return self.name(Kind::Field, Kind::Dot);
            }
            '$' => return self.name(Kind::Variable, Kind::Variable),
            '.' | '+' | '-' | '0'..='9' => return self.number(),
            _ if is_alphanumeric(sign) => return self.word(),
            _ if sign.is_ascii() && !sign.is_control() => (Kind::Sign, 1),
            _ => return self.fail(format!("unrecognized character in action: {}", unicode(sign))),
        };
        self.at = from + length;
        self.push(kind, from, self.at);
        Ok(())
    }

    fn quoted(&mut self, quote: char) -> Result<(), Fault> {
        let from = self.at;
        let mut signs = self.rest().char_indices().skip(1);
        while let Some((at, sign)) = signs.next() {
            match sign {
                '\\' if signs.next().is_some_and(|(_, next)| next != '\n') => {}
                '\\' | '\n' => break,
                _ if sign == quote => {
                    let kind = if quote == '"' {
                        Kind::Quoted
                    } else {
                        Kind::Character
                    };
                    self.at = from + at + 1;
                    self.push(kind, from, self.at);
                    return Ok(());
                }
                _ => {}
            }
        }
        self.fail(match quote {
            '"' => "unterminated quoted string",
            _ => "unterminated character constant",
        })
    }

    /// A field or a variable; the sign alone is of the kind `bare`.
    fn name(&mut self, kind: Kind, bare: Kind) -> Result<(), Fault> {
        let from = self.at;
        let letters = self.rest()[1..]
            .find(|sign| !is_alphanumeric(sign))
            .unwrap_or(self.rest().len() - 1);
        self.at += 1 + letters;
        self.expect_terminator()?;
        self.push(if letters == 0 { bare } else { kind }, from, self.at);
        Ok(())
    }

    fn word(&mut self) -> Result<(), Fault> {
        let from = self.at;
        let rest = self.rest();
        self.at += rest.find(|sign| !is_alphanumeric(sign)).unwrap_or(rest.len());
        self.expect_terminator()?;
        let kind = match &self.text[from..self.at] {
            "true" | "false" => Kind::Bool,
            "nil" => Kind::Nil,
            word if KEYWORDS.contains(&word) => Kind::Keyword,
            _ => Kind::Identifier,
        };
        self.push(kind, from, self.at);
        Ok(())
    }

    fn expect_terminator(&self) -> Result<(), Fault> {
        match self.peek() {
            Some(sign)
                if !is_blank(sign)
                    && !matches!(sign, '.' | ',' | '|' | ':' | '(' | ')')
                    && !self.rest().starts_with("}}") =>
            {
                self.fail(format!("bad character {}", unicode(sign)))
            }
            _ => Ok(()),
        }
    }

    fn number(&mut self) -> Result<(), Fault> {
        let from = self.at;
        self.skip_sign();
        let rest = self.rest().to_ascii_lowercase();
        let (prefix, digits) = match rest.get(..2) {
            Some("0x") => (2, "0123456789abcdef_"),
            Some("0o") => (2, "01234567_"),
            Some("0b") => (2, "01_"),
            _ => (0, "0123456789_"),
        };
        self.at += prefix;
        self.skip(digits);
        if self.rest().starts_with('.') {
            self.at += 1;
            self.skip(digits);
        }
        if prefix == 0 && self.rest().starts_with(['e', 'E']) {
            self.at += 1;
            self.skip_sign();
            self.skip("0123456789_");
        }
        if let Some(sign) = self.peek()
            && (is_alphanumeric(sign) || matches!(sign, '+' | '-'))
        {
            self.at += sign.len_utf8();
            let number = super::printf::quote(&self.text[from..self.at]);
            return self.fail(format!("bad number syntax: {number}"));
        }
        self.push(Kind::Number, from, self.at);
        Ok(())
    }

    fn skip_sign(&mut self) {
        if self.rest().starts_with(['+', '-']) {
            self.at += 1;
        }
    }

    fn skip(&mut self, signs: &str) {
        let rest = self.rest();
        self.at += rest
            .find(|sign: char| !signs.contains(sign.to_ascii_lowercase()))
            .unwrap_or(rest.len());
    }
}

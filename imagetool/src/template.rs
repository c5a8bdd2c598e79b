//! Go's text/template as `--format` takes it, with the functions that Docker adds. Pure: a JSON value in, text out.
//!
//! ```text
//! text ──► lex: tokens ──► parse: nodes ──► render, with value: a JSON document ──► text
//!                                             └─ functions, printf
//!
//! action   = {{pipeline}} | {{$x := p}} | {{$x = p}} | {{/* comment */}}      {{- and -}} take the blanks beside them
//!          | {{if p}}…{{else if p}}…{{else}}…{{end}} | {{with p}}…{{else}}…{{end}}
//!          | {{range [$i,] [$e :=] p}}…{{break}}…{{continue}}…{{else}}…{{end}}
//!          | {{define "x"}}…{{end}} | {{template "x" p}} | {{block "x" p}}…{{end}}
//! pipeline = command *( "|" command )
//! command  = operand | function *operand
//! operand  = . | .Field.Sub | $ | $x.Field | "text" | `text` | 'c' | number | true | false | nil | ( pipeline )[.Field]
//! ```
//!
//! Errors are worded and placed as Go's (`template: :1:2: executing "" at <.X>: …`). What differs, on purpose: a text is
//! never cut within a character, what would fill the memory is an error, and `.ID` finds `Id`.

mod functions;
mod lex;
mod node;
mod parse;
mod printf;
mod render;
mod value;

use serde_json::Value;

use self::node::Parsed;
use self::value::Val;

/// Why a template was refused or could not be filled in, in Go's words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("template: {0}")]
pub struct TemplateError(String);

/// Deepest nesting of blocks, parentheses and templates that call each other.
const DEPTH_MAX: usize = 60;

/// A parsed template.
#[derive(Debug, Clone)]
pub struct Template {
    name: String,
    source: String,
    parsed: Parsed,
}

impl std::str::FromStr for Template {
    type Err = TemplateError;

    fn from_str(text: &str) -> Result<Self, TemplateError> {
        Self::named("", text)
    }
}

impl Template {
    /// Parses a template; errors carry its name.
    ///
    /// # Errors
    /// When the text is no template: tells the line.
    pub fn named(name: &str, text: &str) -> Result<Self, TemplateError> {
        Ok(Self {
            name: name.to_owned(),
            source: text.to_owned(),
            parsed: parse::parse(name, text)?,
        })
    }

    /// Fills the template in with a document as `inspect` shows it. A field that is not there is an error.
    ///
    /// # Errors
    /// When a field is missing or a function is misused: tells line and column.
    pub fn render(&self, document: &Value) -> Result<String, TemplateError> {
        self.fill_in(Val::of("", document), false)
    }

    /// Fills the template in with one row of a list.
    ///
    /// # Errors
    /// As [`Template::render`].
    pub fn render_row(&self, row: &Value) -> Result<String, TemplateError> {
        self.fill_in(Val::of(value::ROW, row), false)
    }

    /// The heading of a table whose rows this template makes: the template filled in with the fields' headings, which
    /// functions leave as they are.
    ///
    /// # Errors
    /// As [`Template::render`].
    pub fn render_heading(&self, headings: &Value) -> Result<String, TemplateError> {
        self.fill_in(Val::of(value::HEADINGS, headings), true)
    }

    fn fill_in(&self, dot: Val, heading: bool) -> Result<String, TemplateError> {
        render::render(self, dot, heading)
    }
}

/// A template with `\t` and `\n` outside of its actions read as tab and line break, as lists take it from the shell.
pub fn unescape(text: &str) -> String {
    let escapes = |text: &str| text.replace("\\t", "\t").replace("\\n", "\n");
    let mut out = String::new();
    let mut rest = text;
    while let Some(start) = rest.find("{{") {
        let end = rest[start..].find("}}").map_or(rest.len(), |end| start + end + 2);
        out += &escapes(&rest[..start]);
        out += &rest[start..end];
        rest = &rest[end..];
    }
    out + &escapes(rest)
}

#[cfg(test)]
mod tests;

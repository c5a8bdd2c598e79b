//! The subset of Go's templates that `--format` takes. Pure: a JSON value in, text out.
//!
//! ```text
//! text {{pipeline}} {{if p}}…{{else}}…{{end}} {{range p}}…{{else}}…{{end}} {{with p}}…{{end}}
//! pipeline = command *( "|" command )
//! command  = operand | function *operand      functions: json join len index upper lower title println split eq ne not truncate
//! operand  = "." | .Field.Sub | $ | "text" | `text` | number | true | false | ( pipeline )
//! ```

use serde_json::Value;

/// Why a template was refused or could not be filled in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("template: {0}")]
pub struct TemplateError(String);

/// Deepest nesting of blocks and parentheses.
const DEPTH_LIMIT: usize = 50;

/// A parsed template.
#[derive(Debug, Clone, PartialEq)]
pub struct Template {
    nodes: Vec<Node>,
}

#[derive(Debug, Clone, PartialEq)]
enum Node {
    Text(String),
    Print(Vec<Vec<Operand>>),
    Block {
        word: Block,
        subject: Vec<Vec<Operand>>,
        body: Vec<Node>,
        otherwise: Vec<Node>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Block {
    If,
    Range,
    With,
}

#[derive(Debug, Clone, PartialEq)]
enum Operand {
    /// Field names from the present value (`.A.B`), or from the first one (`$.A`).
    Field {
        from_root: bool,
        names: Vec<String>,
    },
    Literal(Value),
    Function(String),
    Group(Vec<Vec<Operand>>),
}

fn wrong<T>(text: impl Into<String>) -> Result<T, TemplateError> {
    Err(TemplateError(text.into()))
}

impl std::str::FromStr for Template {
    type Err = TemplateError;

    fn from_str(text: &str) -> Result<Self, TemplateError> {
        let pieces = pieces(text)?;
        let mut at = 0;
        let (nodes, end) = parse_nodes(&pieces, &mut at, 0)?;
        match end {
            None => Ok(Self { nodes }),
            Some(word) => wrong(format!("{{{{{word}}}}} without a beginning")),
        }
    }
}

enum Piece {
    Text(String),
    Action(Vec<Token>),
}

#[derive(Debug, Clone, PartialEq)]
enum Token {
    Word(String),
    Text(String),
    Open,
    Close,
    Pipe,
}

/// Splits a template into text and actions; `{{-` and `-}}` take the blanks beside them away.
fn pieces(text: &str) -> Result<Vec<Piece>, TemplateError> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some(start) = rest.find("{{") {
        let mut before = &rest[..start];
        let mut inside = &rest[start + 2..];
        if let Some(trimmed) = inside.strip_prefix("- ") {
            before = before.trim_end();
            inside = trimmed;
        }
        let (tokens, after, trim) = tokens(inside)?;
        pieces.push(Piece::Text(before.to_owned()));
        pieces.push(Piece::Action(tokens));
        rest = if trim { after.trim_start() } else { after };
    }
    pieces.push(Piece::Text(rest.to_owned()));
    Ok(pieces)
}

/// The tokens of an action, what follows it, and whether blanks after it are to go.
fn tokens(text: &str) -> Result<(Vec<Token>, &str, bool), TemplateError> {
    let mut tokens = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start();
        if let Some(after) = rest.strip_prefix("}}") {
            return Ok((tokens, after, false));
        }
        if let Some(after) = rest.strip_prefix("-}}") {
            return Ok((tokens, after, true));
        }
        let Some(first) = rest.chars().next() else {
            return wrong("unclosed action");
        };
        match first {
            '(' => tokens.push(Token::Open),
            ')' => tokens.push(Token::Close),
            '|' => tokens.push(Token::Pipe),
            '"' => {
                let mut stream = serde_json::Deserializer::from_str(rest).into_iter::<String>();
                let Some(Ok(value)) = stream.next() else {
                    return wrong("unterminated quoted string");
                };
                tokens.push(Token::Text(value));
                rest = &rest[stream.byte_offset()..];
                continue;
            }
            '`' => {
                let Some(end) = rest[1..].find('`') else {
                    return wrong("unterminated raw quoted string");
                };
                tokens.push(Token::Text(rest[1..=end].to_owned()));
                rest = &rest[end + 2..];
                continue;
            }
            _ => {
                let end = rest
                    .find(|c: char| c.is_whitespace() || "()|}\"`".contains(c))
                    .unwrap_or(rest.len());
                if end == 0 {
                    return wrong(format!("unexpected {first:?} in action"));
                }
                tokens.push(Token::Word(rest[..end].to_owned()));
                rest = &rest[end..];
                continue;
            }
        }
        rest = &rest[1..];
    }
}

/// Nodes up to the end of the block, and the word (`end`, `else`) that ended it.
fn parse_nodes(
    pieces: &[Piece],
    at: &mut usize,
    depth: usize,
) -> Result<(Vec<Node>, Option<String>), TemplateError> {
    if depth > DEPTH_LIMIT {
        return wrong("nested too deeply");
    }
    let mut nodes = Vec::new();
    while let Some(piece) = pieces.get(*at) {
        *at += 1;
        let tokens = match piece {
            Piece::Text(text) => {
                nodes.push(Node::Text(text.clone()));
                continue;
            }
            Piece::Action(tokens) => tokens,
        };
        let word = match tokens.first() {
            Some(Token::Word(word)) => word.as_str(),
            Some(_) => "",
            None => return wrong("missing value for command"),
        };
        let block = match word {
            "if" => Block::If,
            "range" => Block::Range,
            "with" => Block::With,
            "end" | "else" => return Ok((nodes, Some(word.to_owned()))),
            _ => {
                nodes.push(Node::Print(parse_pipeline(tokens, depth)?));
                continue;
            }
        };
        let subject = parse_pipeline(&tokens[1..], depth)?;
        let (body, end) = parse_nodes(pieces, at, depth + 1)?;
        let (otherwise, end) = match end.as_deref() {
            Some("else") => parse_nodes(pieces, at, depth + 1)?,
            _ => (Vec::new(), end),
        };
        if end.as_deref() != Some("end") {
            return wrong(format!("{{{{{word}}}}} has no {{{{end}}}}"));
        }
        nodes.push(Node::Block {
            word: block,
            subject,
            body,
            otherwise,
        });
    }
    Ok((nodes, None))
}

fn parse_pipeline(tokens: &[Token], depth: usize) -> Result<Vec<Vec<Operand>>, TemplateError> {
    if depth > DEPTH_LIMIT {
        return wrong("nested too deeply");
    }
    let mut commands = vec![Vec::new()];
    let mut at = 0;
    while let Some(token) = tokens.get(at) {
        at += 1;
        let operand = match token {
            Token::Pipe => {
                commands.push(Vec::new());
                continue;
            }
            Token::Close => return wrong("unexpected \")\""),
            Token::Open => {
                let mut level = 1;
                let start = at;
                while level > 0 {
                    match tokens.get(at) {
                        Some(Token::Open) => level += 1,
                        Some(Token::Close) => level -= 1,
                        Some(_) => {}
                        None => return wrong("unclosed \"(\""),
                    }
                    at += 1;
                }
                Operand::Group(parse_pipeline(&tokens[start..at - 1], depth + 1)?)
            }
            Token::Text(text) => Operand::Literal(Value::String(text.clone())),
            Token::Word(word) => parse_word(word)?,
        };
        if let Some(command) = commands.last_mut() {
            command.push(operand);
        }
    }
    if commands.iter().any(Vec::is_empty) {
        return wrong("missing value for command");
    }
    Ok(commands)
}

fn parse_word(word: &str) -> Result<Operand, TemplateError> {
    if let Some(rest) = word
        .strip_prefix('.')
        .or_else(|| word.strip_prefix("$."))
        .or_else(|| word.strip_prefix('$'))
    {
        let names: Vec<String> = rest
            .split('.')
            .filter(|name| !name.is_empty())
            .map(str::to_owned)
            .collect();
        let valid = |name: &String| name.chars().all(|c| c.is_alphanumeric() || c == '_');
        if !names.iter().all(valid) {
            return wrong(format!("{word:?} is no field"));
        }
        return Ok(Operand::Field {
            from_root: word.starts_with('$'),
            names,
        });
    }
    if let Ok(number) = word.parse::<i64>() {
        return Ok(Operand::Literal(Value::from(number)));
    }
    match word {
        "true" => Ok(Operand::Literal(Value::Bool(true))),
        "false" => Ok(Operand::Literal(Value::Bool(false))),
        "nil" => Ok(Operand::Literal(Value::Null)),
        "json" | "join" | "len" | "index" | "upper" | "lower" | "title" | "split" | "println" | "eq"
        | "ne" | "not" | "truncate" => Ok(Operand::Function(word.to_owned())),
        _ => wrong(format!("function {word:?} not defined")),
    }
}

impl Template {
    /// Fills the template in. A field that is not there is an error, as in `docker inspect`.
    pub fn render(&self, value: &Value) -> Result<String, TemplateError> {
        let mut out = String::new();
        render(&self.nodes, value, value, &mut out)?;
        Ok(out)
    }
}

fn render(nodes: &[Node], root: &Value, dot: &Value, out: &mut String) -> Result<(), TemplateError> {
    for node in nodes {
        match node {
            Node::Text(text) => out.push_str(text),
            Node::Print(pipeline) => print(&evaluate(pipeline, root, dot)?, true, out),
            Node::Block {
                word,
                subject,
                body,
                otherwise,
            } => {
                let value = evaluate(subject, root, dot)?;
                match word {
                    Block::If if truth(&value) => render(body, root, dot, out)?,
                    Block::With if truth(&value) => render(body, root, &value, out)?,
                    Block::Range if truth(&value) => match &value {
                        Value::Array(items) => {
                            for item in items {
                                render(body, root, item, out)?;
                            }
                        }
                        Value::Object(map) => {
                            for item in map.values() {
                                render(body, root, item, out)?;
                            }
                        }
                        _ => return wrong("range can't iterate over this value"),
                    },
                    _ => render(otherwise, root, dot, out)?,
                }
            }
        }
    }
    Ok(())
}

fn evaluate(pipeline: &[Vec<Operand>], root: &Value, dot: &Value) -> Result<Value, TemplateError> {
    let mut piped: Option<Value> = None;
    for command in pipeline {
        let mut values = Vec::new();
        for operand in command.iter().skip(1) {
            values.push(operand_value(operand, root, dot)?);
        }
        piped = Some(match command.first() {
            Some(Operand::Function(name)) => {
                values.extend(piped);
                call(name, &values)?
            }
            Some(operand) if values.is_empty() && piped.is_none() => operand_value(operand, root, dot)?,
            _ => return wrong("can't give argument to non-function"),
        });
    }
    Ok(piped.unwrap_or_default())
}

fn operand_value(operand: &Operand, root: &Value, dot: &Value) -> Result<Value, TemplateError> {
    match operand {
        Operand::Literal(value) => Ok(value.clone()),
        Operand::Group(pipeline) => evaluate(pipeline, root, dot),
        Operand::Function(name) => call(name, &[]),
        Operand::Field { from_root, names } => {
            let mut value = if *from_root { root } else { dot };
            for name in names {
                value = match value.get(name) {
                    Some(value) => value,
                    None if value.is_null() => return Ok(Value::Null),
                    None => return wrong(format!("map has no entry for key {name:?}")),
                };
            }
            Ok(value.clone())
        }
    }
}

fn call(name: &str, values: &[Value]) -> Result<Value, TemplateError> {
    let text = |value: &Value| {
        let mut out = String::new();
        print(value, true, &mut out);
        out
    };
    Ok(match (name, values) {
        ("json", [value]) => Value::String(value.to_string()),
        ("upper", [value]) => Value::String(text(value).to_uppercase()),
        ("lower", [value]) => Value::String(text(value).to_lowercase()),
        ("title", [value]) => {
            let text = text(value);
            let mut letters = text.chars();
            let first = letters
                .next()
                .map(|c| c.to_uppercase().collect::<String>())
                .unwrap_or_default();
            Value::String(first + letters.as_str())
        }
        ("println", values) => Value::String(values.iter().map(text).collect::<Vec<_>>().join(" ") + "\n"),
        ("len", [Value::Array(items)]) => Value::from(items.len()),
        ("len", [Value::Object(map)]) => Value::from(map.len()),
        ("len", [Value::String(text)]) => Value::from(text.len()),
        ("len", [Value::Null]) => Value::from(0),
        ("not", [value]) => Value::Bool(!truth(value)),
        ("eq", [first, others @ ..]) if !others.is_empty() => Value::Bool(others.contains(first)),
        ("ne", [first, second]) => Value::Bool(first != second),
        ("join", [Value::Array(items), Value::String(separator)]) => {
            Value::String(items.iter().map(text).collect::<Vec<_>>().join(separator))
        }
        ("join", [Value::Null, _]) => Value::String(String::new()),
        ("split", [Value::String(text), Value::String(separator)]) => {
            Value::Array(text.split(separator.as_str()).map(Value::from).collect())
        }
        ("truncate", [value, Value::Number(length)]) => {
            let length = length
                .as_u64()
                .and_then(|length| usize::try_from(length).ok())
                .unwrap_or(usize::MAX);
            Value::String(text(value).chars().take(length).collect())
        }
        ("index", [value, keys @ ..]) => {
            let mut value = value;
            for key in keys {
                let found = match key {
                    Value::String(key) => value.get(key),
                    Value::Number(at) => at.as_u64().and_then(|at| value.get(usize::try_from(at).ok()?)),
                    _ => None,
                };
                value = match found {
                    Some(value) => value,
                    None if value.is_array() => return wrong("index out of range"),
                    None => &Value::Null,
                };
            }
            value.clone()
        }
        _ => return wrong(format!("wrong number or kind of arguments for {name}")),
    })
}

/// What Go holds for true: everything but empty and zero values.
fn truth(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(map) => !map.is_empty(),
    }
}

/// Writes a value as Go's `%v` does.
fn print(value: &Value, outermost: bool, out: &mut String) {
    match value {
        Value::Null => out.push_str(if outermost { "<no value>" } else { "<nil>" }),
        Value::String(text) => out.push_str(text),
        Value::Array(items) => {
            out.push('[');
            for (at, item) in items.iter().enumerate() {
                if at > 0 {
                    out.push(' ');
                }
                print(item, false, out);
            }
            out.push(']');
        }
        Value::Object(map) => {
            out.push_str("map[");
            for (at, (key, item)) in map.iter().enumerate() {
                if at > 0 {
                    out.push(' ');
                }
                out.push_str(key);
                out.push(':');
                print(item, false, out);
            }
            out.push(']');
        }
        other => out.push_str(&other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn filled(template: &str) -> Result<String, String> {
        let value = json!({
            "ID": "abc", "Size": 12, "Config": {"Env": ["A=1", "B=2"], "Labels": {"a.b": "x"}, "Cmd": null},
            "On": true, "List": []
        });
        let template: Template = template
            .parse()
            .map_err(|error: TemplateError| error.to_string())?;
        template.render(&value).map_err(|error| error.to_string())
    }

    #[test]
    fn templates_as_go_fills_them_in() {
        let cases = [
            ("plain", "plain"),
            ("{{.ID}}:{{ .Size }}", "abc:12"),
            ("{{json .Config.Env}}", "[\"A=1\",\"B=2\"]"),
            ("{{.Config.Env}} {{.Config.Labels}}", "[A=1 B=2] map[a.b:x]"),
            ("{{range .Config.Env}}<{{.}}>{{end}}", "<A=1><B=2>"),
            ("{{range .List}}x{{else}}none{{end}}", "none"),
            ("{{range .Config.Env}}{{$.ID}}{{end}}", "abcabc"),
            ("{{if .On}}yes{{else}}no{{end}}{{if .List}}x{{end}}", "yes"),
            ("{{with .Config}}{{.Cmd}}{{end}}", "<no value>"),
            (
                "{{index .Config.Labels \"a.b\"}} {{index .Config.Env 1}}",
                "x B=2",
            ),
            ("{{join .Config.Env \", \"}}", "A=1, B=2"),
            (
                "{{.ID | upper}} {{len .Config.Env}} {{(index .Config.Env 0) | json}}",
                "ABC 2 \"A=1\"",
            ),
            ("a {{- .ID -}} b", "aabcb"),
            ("{{println .ID}}", "abc\n"),
            ("{{eq .ID \"abc\"}} {{not .On}}", "true false"),
            ("{{`raw`}}{{\"q\\\"\"}}", "rawq\""),
        ];
        for (template, expected) in cases {
            assert_eq!(filled(template).as_deref(), Ok(expected), "{template}");
        }
    }

    #[test]
    fn wrong_templates_are_told() {
        let cases = [
            ("{{.ID", "unclosed"),
            ("{{}}", "missing value"),
            ("{{nope}}", "not defined"),
            ("{{.Missing}}", "no entry"),
            ("{{if .ID}}", "no {{end}}"),
            ("{{end}}", "without a beginning"),
            ("{{\"x}}", "unterminated"),
            ("{{(.ID}}", "unclosed"),
            ("{{index .Config.Env 7}}", "out of range"),
            ("{{.ID .ID}}", "non-function"),
        ];
        for (template, part) in cases {
            let error = filled(template).unwrap_err();
            assert!(error.contains(part), "{template}: {error}");
        }
    }

    proptest! {
        #[test]
        fn no_template_panics(text in "([{}a-z.|()\"`$ -]|\\{\\{|\\}\\}|range|if|end|\\.ID|é){0,20}") {
            let _ = filled(&text);
        }
    }
}

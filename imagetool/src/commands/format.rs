//! `--format` of the listing verbs: `table`, `table TEMPLATE`, `json`, or a template for each row. One of `inspect` and
//! of verbs that show one thing: `json`, or a template.

use anyhow::anyhow;
use imagetool::shape::to_escaped_json;
use imagetool::table::{align, layout};
use imagetool::template::{Template, TemplateError, unescape};
use serde_json::{Map, Value};

/// Headings and the fields below them.
pub(crate) type Columns<'a> = &'a [(&'a str, &'a str)];

/// The exit status of a template that does not parse, where Docker has one of its own: `inspect`, `info`, `version`.
pub(crate) const TEMPLATE_STATUS: u8 = 64;

/// How rows are printed.
#[derive(Debug)]
pub(crate) enum Format {
    /// The verb's own columns under their headings.
    Table,
    /// Columns of the caller's choice under their headings.
    TableOf(Template),
    /// One JSON object per line.
    Json,
    /// A template per line.
    Template(Template),
    /// The ids alone.
    Ids,
}

/// A template's error in Docker's words.
pub(crate) fn template_error(error: &TemplateError) -> anyhow::Error {
    anyhow!("template parsing error: {error}")
}

impl Format {
    /// Reads the option's value.
    pub(crate) fn parse(text: Option<&str>, quiet: bool) -> anyhow::Result<Self> {
        let template = |text: &str| {
            unescape(text)
                .parse::<Template>()
                .map_err(|error| template_error(&error))
        };
        Ok(match text.unwrap_or_default() {
            "" | "table" if quiet => Self::Ids,
            "" | "table" => Self::Table,
            "json" => Self::Json,
            text => match text.strip_prefix("table") {
                Some(columns) => Self::TableOf(template(columns.trim())?),
                None => Self::Template(template(text)?),
            },
        })
    }

    /// Prints rows. `columns` are the verb's own; `headings` are those of all fields that a template may name, where the
    /// fields' names are not good enough.
    pub(crate) fn render(
        &self,
        columns: Columns<'_>,
        headings: Columns<'_>,
        rows: impl Iterator<Item = Value>,
    ) -> anyhow::Result<String> {
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let filled = |template: &Template, row: &Value| {
            template.render_row(row).map_err(|error| template_error(&error))
        };
        let rows: Vec<Value> = rows.collect();
        let mut out = String::new();
        match self {
            Self::Table => {
                let heading = columns.iter().map(|(heading, _)| (*heading).to_owned());
                let mut cells = vec![heading.collect::<Vec<_>>()];
                let cell = |row: &Value, field: &str| text(&row[field]);
                cells.extend(
                    rows.iter()
                        .map(|row| columns.iter().map(|(_, field)| cell(row, field)).collect()),
                );
                out = layout(&cells);
            }
            Self::TableOf(template) => {
                let others = rows.first().and_then(Value::as_object);
                let others = others.into_iter().flat_map(Map::keys);
                let mut fields: Map<String, Value> =
                    others.map(|field| (field.clone(), words(field).into())).collect();
                for (heading, field) in columns.iter().chain(headings) {
                    fields.insert((*field).to_owned(), Value::from(*heading));
                }
                let heading = template.render_heading(&Value::Object(fields));
                out = heading.map_err(|error| template_error(&error))? + "\n";
                for row in &rows {
                    out += &filled(template, row)?;
                    out.push('\n');
                }
                out = align(&out);
            }
            Self::Json => {
                for mut row in rows {
                    if let Some(row) = row.as_object_mut() {
                        row.retain(|field, _| !field.starts_with('.'));
                    }
                    out += &to_escaped_json(&row);
                    out.push('\n');
                }
            }
            Self::Ids => rows
                .iter()
                .for_each(|row| out += &format!("{}\n", text(&row["ID"]))),
            Self::Template(template) => {
                for row in &rows {
                    out += &filled(template, row)?;
                    out.push('\n');
                }
            }
        }
        Ok(out)
    }
}

/// A field's name as a heading: `CreatedAt` as `CREATED AT`.
fn words(field: &str) -> String {
    let mut out = String::new();
    let mut previous_lower = false;
    for letter in field.chars() {
        if letter.is_uppercase() && previous_lower {
            out.push(' ');
        }
        previous_lower = letter.is_lowercase();
        out.extend(letter.to_uppercase());
    }
    out
}

/// How one document is printed.
#[derive(Debug)]
pub(crate) enum Shown {
    /// As the verb does by itself.
    Own,
    /// As JSON in one line.
    Json,
    /// As a template says.
    Template(Template),
}

impl Shown {
    /// Reads the option's value; `name` is how errors call the template.
    pub(crate) fn parse(name: &str, text: Option<&str>) -> Result<Self, TemplateError> {
        Ok(match text.unwrap_or_default() {
            "" => Self::Own,
            "json" => Self::Json,
            text => Self::Template(Template::named(name, text)?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn formats() {
        let columns = [("NAME", "Name"), ("IMAGE ID", "ID")];
        let headings = [("CREATED", "CreatedSince")];
        let rows = || [json!({"Name": "a<", "ID": "1", "CreatedSince": "x", ".Labels": {}})].into_iter();
        let render = |format| {
            Format::parse(Some(format), false)
                .unwrap()
                .render(&columns, &headings, rows())
                .unwrap()
        };
        assert_eq!(render("table"), "NAME      IMAGE ID\na<        1\n");
        assert_eq!(
            render("table {{.ID}}\\t{{upper .CreatedSince}}"),
            "IMAGE ID   CREATED\n1          X\n"
        );
        assert_eq!(
            render("table{{len .Name}} {{printf \"%.2s\" .ID}}"),
            "4 IM\n2 1\n"
        );
        assert_eq!(render("{{.Name}}={{.ID}}\\t{{\"\\n\"}}"), "a<=1\t\n\n");
        let row = "{\"CreatedSince\":\"x\",\"ID\":\"1\",\"Name\":\"a\\u003c\"}\n";
        assert_eq!(render("json"), row);
        assert_eq!(render("{{json .}}"), row);
        let wrong = Format::parse(Some("{{"), false).unwrap_err().to_string();
        assert_eq!(wrong, "template parsing error: template: :1: unclosed action");
    }
}

//! `--format` of the listing verbs: `table`, `table TEMPLATE`, `json`, or a template for each row.

use anyhow::Context as _;
use imagetool::table::layout;
use imagetool::template::Template;
use serde_json::Value;

/// How rows are printed.
pub(crate) enum Format {
    /// The verb's own columns under their headers.
    Table,
    /// Columns of the caller's choice under their headers.
    TableOf(String, Template),
    /// One JSON object per line.
    Json,
    /// A template per line.
    Template(Template),
    /// The ids alone.
    Ids,
}

impl Format {
    /// Reads the option's value.
    pub(crate) fn parse(text: Option<&str>, quiet: bool) -> anyhow::Result<Self> {
        let template = |text: &str| {
            let text = text.replace("\\t", "\t").replace("\\n", "\n");
            text.parse::<Template>()
                .with_context(|| format!("--format {text:?}"))
        };
        Ok(match text {
            None | Some("table" | "") if quiet => Self::Ids,
            None | Some("table" | "") => Self::Table,
            Some("json") => Self::Json,
            Some(text) => match text.strip_prefix("table ") {
                Some(columns) => Self::TableOf(columns.replace("\\t", "\t"), template(columns)?),
                None => Self::Template(template(text)?),
            },
        })
    }

    /// Prints rows; `columns` are the headers of the table and the rows' keys.
    pub(crate) fn render(
        &self,
        columns: &[(&str, &str)],
        rows: impl Iterator<Item = Value>,
    ) -> anyhow::Result<String> {
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let mut out = String::new();
        match self {
            Self::Table => {
                let mut cells = vec![
                    columns
                        .iter()
                        .map(|(header, _)| (*header).to_owned())
                        .collect::<Vec<_>>(),
                ];
                cells.extend(rows.map(|row| columns.iter().map(|(_, key)| text(&row[*key])).collect()));
                out = layout(&cells);
            }
            Self::TableOf(source, template) => {
                let split = |line: &str| line.split('\t').map(str::to_owned).collect::<Vec<_>>();
                let mut cells = vec![split(&header_of(source, columns))];
                for row in rows {
                    cells.push(split(&template.render(&row)?));
                }
                out = layout(&cells);
            }
            Self::Json => rows.for_each(|row| out += &format!("{row}\n")),
            Self::Ids => rows.for_each(|row| out += &format!("{}\n", text(&row["ID"]))),
            Self::Template(template) => {
                for row in rows {
                    out += &template.render(&row)?;
                    out.push('\n');
                }
            }
        }
        Ok(out)
    }
}

/// The header line of a table template: each action gives the header of the verb's column that shows its field, or the
/// field's name, `{{.CreatedAt}}` is `CREATED AT`.
fn header_of(source: &str, columns: &[(&str, &str)]) -> String {
    let mut out = String::new();
    let mut rest = source;
    while let Some(start) = rest.find("{{") {
        out.push_str(&rest[..start]);
        let end = rest[start..].find("}}").map_or(rest.len(), |end| start + end + 2);
        let field = rest[start..end]
            .split(|c: char| !c.is_alphanumeric())
            .rfind(|word| !word.is_empty())
            .unwrap_or_default();
        match columns.iter().find(|(_, key)| *key == field) {
            Some((header, _)) => out.push_str(header),
            None => push_words(&mut out, field),
        }
        rest = &rest[end..];
    }
    out + rest
}

/// `CreatedAt` as `CREATED AT`.
fn push_words(out: &mut String, field: &str) {
    let mut previous_lower = false;
    for letter in field.chars() {
        if letter.is_uppercase() && previous_lower {
            out.push(' ');
        }
        previous_lower = letter.is_lowercase();
        out.extend(letter.to_uppercase());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn formats() {
        let columns = [("NAME", "Name"), ("IMAGE ID", "ID")];
        let rows = || [json!({"Name": "a", "ID": "1", "CreatedSince": "x"})].into_iter();
        let render = |format| {
            Format::parse(Some(format), false)
                .unwrap()
                .render(&columns, rows())
                .unwrap()
        };
        assert_eq!(render("table"), "NAME      IMAGE ID\na         1\n");
        assert_eq!(
            render("table {{.ID}}\\t{{.CreatedSince}}"),
            "IMAGE ID   CREATED SINCE\n1          x\n"
        );
        assert_eq!(render("{{.Name}}={{.ID}}"), "a=1\n");
        assert_eq!(
            render("json"),
            "{\"CreatedSince\":\"x\",\"ID\":\"1\",\"Name\":\"a\"}\n"
        );
        assert!(Format::parse(Some("{{"), false).is_err());
    }
}

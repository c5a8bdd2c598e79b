use super::*;
use proptest::prelude::*;
use serde_json::json;

fn document() -> Value {
    json!({
        "Id": "sha256:abcdef", "Size": 12, "Os": "linux", "RepoTags": ["a:1", "b:2"], "RepoDigests": null, "List": [],
        "Config": {
            "Env": ["A=1", "B=<2>"], "Labels": {"a.b": "x", "b": ""}, "Cmd": null, "WorkingDir": "/etc",
            "ExposedPorts": {"80/tcp": {}},
        },
        "On": true, "Nothing": null, "Ratio": 1.5,
    })
}

fn filled(template: &str) -> Result<String, String> {
    let template: Template = template
        .parse()
        .map_err(|error: TemplateError| error.to_string())?;
    template.render(&document()).map_err(|error| error.to_string())
}

fn check(cases: &[(&str, &str)]) {
    for (template, expected) in cases {
        assert_eq!(filled(template).as_deref(), Ok(*expected), "{template}");
    }
}

#[test]
fn values_print_as_gos() {
    check(&[
        ("plain {", "plain {"),
        ("{{.Id}}:{{ .Size }}}", "sha256:abcdef:12}"),
        (
            "{{.ID}} {{.On}} {{.Ratio}} {{.Nothing}}",
            "sha256:abcdef true 1.5 <nil>",
        ),
        (
            "{{.Config.Env}} {{.Config.Labels}} {{.Config.ExposedPorts}}",
            "[A=1 B=<2>] map[a.b:x b:] map[80/tcp:{}]",
        ),
        (
            "{{.Config.Labels.b}}|{{.Config.Labels.nope}}|{{.RepoDigests}}",
            "|<no value>|[]",
        ),
        (
            "{{1.}} {{.5}} {{0x10}} {{1e3}} {{1e21}} {{'a'}} {{-3}} {{1_000}} {{017}}",
            "1 0.5 16 1000 1e+21 97 -3 1000 15",
        ),
        (
            "{{\"a\\tb\\u00e9\\x41\"}}{{`raw\\n`}}{{true}}",
            "a\tb\u{e9}Araw\\ntrue",
        ),
    ]);
}

#[test]
fn what_a_configuration_leaves_out_is_no_error() {
    check(&[
        (
            "{{.Config.Cmd}} {{.Config.Entrypoint}} {{.Config.Volumes}}|{{.Config.User}}|{{.Config.Tty}}",
            "[] [] map[]||false",
        ),
        (
            "{{.Config.Healthcheck}} {{json .Config.Entrypoint}} {{.Variant}}|",
            "<nil> null |",
        ),
        ("{{if .Config.Entrypoint}}x{{else}}none{{end}}", "none"),
        ("{{range .Config.OnBuild}}x{{end}}{{len .Config.Shell}}", "0"),
    ]);
    assert!(
        filled("{{.Config.Nope}}")
            .unwrap_err()
            .contains("no entry for key \"Nope\"")
    );
}

#[test]
fn blocks() {
    check(&[
        ("{{range .Config.Env}}<{{.}}>{{end}}", "<A=1><B=<2>>"),
        ("{{range .List}}x{{else}}none{{end}}", "none"),
        (
            "{{range $i, $e := .RepoTags}}{{$i}}={{$e}};{{end}}",
            "0=a:1;1=b:2;",
        ),
        (
            "{{range $k, $v := .Config.Labels}}{{$k}}={{$v}};{{end}}",
            "a.b=x;b=;",
        ),
        ("{{range 3}}{{.}}{{end}}", "012"),
        (
            "{{range .RepoTags}}{{if eq . \"a:1\"}}{{continue}}{{end}}{{.}}{{end}}",
            "b:2",
        ),
        ("{{range .RepoTags}}{{.}}{{break}}{{end}}", "a:1"),
        ("{{range .RepoTags}}{{$.Os}}{{end}}", "linuxlinux"),
        (
            "{{if .List}}a{{else if eq .Size 1}}b{{else if .On}}c{{else}}d{{end}}",
            "c",
        ),
        (
            "{{with .List}}a{{else with .Config}}{{.WorkingDir}}{{end}}",
            "/etc",
        ),
        (
            "{{with $x := .Config}}{{$x.WorkingDir}}{{$.Os}}{{end}}",
            "/etclinux",
        ),
        ("{{$x := 1}}{{if true}}{{$x = 2}}{{$y := 3}}{{end}}{{$x}}", "2"),
        ("{{/* a comment */}}x{{- /* one more */ -}} y", "xy"),
        ("a {{- .Os -}} \n b {{.Os -}}   c", "alinuxb linuxc"),
        (
            "{{define \"T\"}}T:{{.}}{{end}}{{template \"T\" .Os}}{{block \"B\" .Size}}[{{.}}]{{end}}",
            "T:linux[12]",
        ),
        ("{{- range .RepoTags }}\n {{ . }}\n{{- end }}", "\n a:1\n b:2"),
    ]);
}

#[test]
fn functions_and_pipes() {
    check(&[
        (
            "{{json .Config.Env}} {{json \"<a>\"}}",
            "[\"A=1\",\"B=<2>\"] \"<a>\"",
        ),
        (
            "{{json .Config}}",
            r#"{"ExposedPorts":{"80/tcp":{}},"Env":["A=1","B=<2>"],"Cmd":null,"WorkingDir":"/etc","Labels":{"a.b":"x","b":""}}"#,
        ),
        (
            "{{index .Config.Labels \"a.b\"}} {{index .Config.Env 1}} {{index .Config.Labels \"zz\"}}|",
            "x B=<2> |",
        ),
        (
            "{{join .RepoTags \", \"}} {{split .Id \":\"}} {{len .RepoTags}} {{len .Id}}",
            "a:1, b:2 [sha256 abcdef] 2 13",
        ),
        (
            "{{.Os | upper}} {{title \"two words\"}} {{lower \"ABC\"}} {{truncate .Id 3}} {{pad .Os 1 2}}|",
            "LINUX Two Words abc sha  linux  |",
        ),
        (
            "{{truncate \"h\u{e9}llo\" 2}}|{{truncate .Id 500}}",
            "h|sha256:abcdef",
        ),
        (
            "{{slice .Id 7 10}} {{slice .RepoTags 1}} {{slice .Id 7}}",
            "abc [b:2] abcdef",
        ),
        (
            "{{eq .Size 12}} {{eq 1 2 1}} {{ne .Os \"a\"}} {{lt 1 2}} {{ge 1 2}} {{gt \"b\" \"a\"}} {{le 2 2}}",
            "true true true true false true true",
        ),
        (
            "{{and .Os .Size}} {{or \"\" .Os}} {{not .List}} {{or .Os .Nope}} {{and 0 .Nope}}",
            "12 linux true linux 0",
        ),
        ("{{println .Os 1}}{{print 1 2 \"a\" \"b\" 3}}", "linux 1\n1 2ab3"),
        (
            "{{(index .RepoTags 0) | printf \"%s-%s\" \"x\"}} {{(.Config).WorkingDir}}",
            "x-a:1 /etc",
        ),
        (
            "{{html \"<a>\"}} {{js \"'\"}} {{urlquery \"a b&\"}}",
            "&lt;a&gt; \\' a+b%26",
        ),
    ]);
}

#[test]
fn printf_formats() {
    check(&[
        (
            "{{printf \"%d %v %q %5d|%-5d|%05d|%+d|%x %X %o %b\" .Size .Size .Os 3 4 5 6 255 255 8 2}}",
            "12 12 \"linux\"     3|4    |00005|+6|ff FF 10 10",
        ),
        (
            "{{printf \"%5s|%-8s|%.2s|%t|%c|%U|%6.2f|%T\" \"a\" \"b\" \"xyz\" true 65 65 3.14159 .Os}}",
            "    a|b       |xy|true|A|U+0041|  3.14|string",
        ),
        ("{{printf \"%s %%\"}}", "%!s(MISSING) %"),
        ("{{printf \"a\" 1}}", "a%!(EXTRA int=1)"),
        (
            "{{printf \"%s\" .Size}} {{printf \"%d\" .Os}} {{printf \"%\"}}",
            "%!s(int=12) %!d(string=linux) %!(NOVERB)",
        ),
        (
            "{{printf \"%q %s\" .RepoTags .Config.Labels}}",
            "[\"a:1\" \"b:2\"] map[a.b:x b:]",
        ),
    ]);
}

/// The words and places that Docker's client prints.
#[test]
fn wrong_templates_are_told_as_go_does() {
    let cases = [
        ("{{.Id", ":1: unclosed action"),
        ("x\n{{}}", ":2: missing value for command"),
        ("{{if}}x{{end}}", ":1: missing value for if"),
        ("{{nope}}", ":1: function \"nope\" not defined"),
        ("{{if .Id}}x", ":1: unexpected EOF"),
        ("{{end}}", ":1: unexpected {{end}}"),
        ("{{else}}", ":1: unexpected {{else}}"),
        (
            "{{if 1}}{{else}}{{else}}{{end}}",
            ":1: expected end; found {{else}}",
        ),
        ("{{\"x}}", ":1: unterminated quoted string"),
        ("{{`x}}", ":1: unterminated raw quoted string"),
        ("{{'ab'}}", ":1: malformed character constant: 'ab'"),
        ("{{(.Id}}", ":1: unclosed left paren"),
        ("{{.Id)}}", ":1: unexpected right paren"),
        ("{{.Id}", ":1: bad character U+007D '}'"),
        ("{{3-}}", ":1: bad number syntax: \"3-\""),
        ("{{#}}", ":1: unexpected \"#\" in command"),
        ("{{ | upper}}", ":1: unexpected \"|\" in command"),
        ("{{.Config.}}", ":1: unexpected <.> in operand"),
        ("{{1 | 2}}", ":1: non executable command in pipeline stage 2"),
        ("{{$z}}", ":1: undefined variable \"$z\""),
        ("{{$x, $y := .Id}}", ":1: too many declarations in command"),
        ("{{break}}", ":1: {{break}} outside {{range}}"),
        (
            "{{.Nope}}",
            ":1:2: executing \"\" at <.Nope>: map has no entry for key \"Nope\"",
        ),
        (
            "a\n b{{.Config.Nope}}",
            ":2:11: executing \"\" at <.Config.Nope>: map has no entry for key \"Nope\"",
        ),
        (
            "{{.Id.Foo}}",
            ":1:5: executing \"\" at <.Id.Foo>: can't evaluate field Foo in type string",
        ),
        (
            "{{index .RepoTags 7}}",
            ":1:2: executing \"\" at <index .RepoTags 7>: error calling index: index out of range: 7",
        ),
        (
            "{{upper .Size}}",
            ":1:8: executing \"\" at <.Size>: wrong type for value; expected string; got int",
        ),
        (
            "{{upper}}",
            ":1:2: executing \"\" at <upper>: wrong number of args for upper: want 1 got 0",
        ),
        (
            "{{and}}",
            ":1:2: executing \"\" at <and>: wrong number of args for and: want at least 1 got 0",
        ),
        (
            "{{.Id .Os}}",
            ":1:2: executing \"\" at <.Id>: Id is not a method but has arguments",
        ),
        (
            "{{\"a\" \"b\"}}",
            ":1:2: executing \"\" at <\"a\">: can't give argument to non-function \"a\"",
        ),
        (
            "{{eq 1 \"a\"}}",
            ":1:2: executing \"\" at <eq 1 \"a\">: error calling eq: incompatible types for comparison",
        ),
        ("{{nil}}", ":1:2: executing \"\" at <nil>: nil is not a command"),
        (
            "{{range .Id}}x{{end}}",
            ":1:8: executing \"\" at <.Id>: range can't iterate over sha256:abcdef",
        ),
        (
            "{{template \"nope\"}}",
            ":1:11: executing \"\" at <{{template \"nope\"}}>: template \"nope\" not defined",
        ),
    ];
    for (template, expected) in cases {
        assert_eq!(
            filled(template),
            Err(format!("template: {expected}")),
            "{template}"
        );
    }
}

#[test]
fn what_would_not_end_is_an_error() {
    for template in [
        "{{define \"T\"}}{{template \"T\"}}{{end}}{{template \"T\"}}",
        "{{range 99999999999}}{{end}}",
        "{{range 999999}}{{range 999999}}x{{end}}{{end}}",
        "{{pad \"x\" 9999999999 0}}",
        "{{$x := \"aa\"}}{{range 60}}{{$x = print $x $x}}{{end}}",
        "{{$x := \"aa\"}}{{range 24}}{{$x = print $x $x}}{{end}}{{len (split $x \"\")}}",
        &"{{if 1}}".repeat(10_000),
        &format!("{{{{{}", "(".repeat(10_000)),
    ] {
        assert!(
            filled(template).is_err(),
            "{}",
            &template[..template.len().min(60)]
        );
    }
    assert!(filled("{{printf \"%99999999999d\" 1}}").unwrap().len() <= 1_000_000);
}

#[test]
fn rows_and_headings() {
    let row = json!({"ID": "1", "Labels": "a=1", ".Labels": {"a": "1"}, "Name": "<none>"});
    let headings = json!({"ID": "IMAGE ID", "Name": "NAME"});
    let cases = [
        (
            "{{json .}}",
            "{\"ID\":\"1\",\"Labels\":\"a=1\",\"Name\":\"\\u003cnone\\u003e\"}",
            "",
        ),
        ("{{upper .Name}}|{{truncate .ID 1}}", "<NONE>|1", "NAME|IMAGE ID"),
        ("{{.ID}}{{.Label \"a\"}}{{.Label \"b\"}}", "11", "IMAGE IDab"),
        ("{{if .Name}}{{.Name}}{{end}}", "<none>", "NAME"),
    ];
    for (text, expected, heading) in cases {
        let template: Template = text.parse().unwrap();
        assert_eq!(template.render_row(&row).as_deref(), Ok(expected), "{text}");
        assert_eq!(
            template.render_heading(&headings).as_deref(),
            Ok(heading),
            "{text}"
        );
    }
    let wrong: Template = "{{.Nope}}".parse().unwrap();
    let error = wrong.render_row(&row).unwrap_err().to_string();
    assert!(
        error.contains("can't evaluate field Nope in this row, which has ID, Labels, Name"),
        "{error}"
    );
}

#[test]
fn escapes_are_read_outside_of_actions() {
    assert_eq!(unescape("a\\tb{{\"\\n\"}}\\n{{.X"), "a\tb{{\"\\n\"}}\n{{.X");
}

fn action() -> impl Strategy<Value = String> {
    let word = prop_oneof![
        Just(".".to_owned()),
        "\\.(Id|Size|Config|RepoTags|Nope)(\\.(Env|Labels|Cmd|x))?",
        "\\$(x|y)?(\\.Id)?",
        "\"[a-z%é\\\\]{0,4}\"",
        "`[^`]{0,4}`",
        "-?[0-9]{1,4}(\\.[0-9]|e[0-9]|x)?",
        "(and|eq|html|index|join|js|json|len|lt|not|or|pad|print|printf|println|slice|split|title|truncate|upper|call)",
        "(true|nil|if|range|with|else|end|define|template|block|break|continue|:=|=|,|\\||\\(|\\)|'a')",
        "\\PC",
    ];
    (prop::collection::vec(word, 0..6), any::<bool>(), any::<bool>()).prop_map(|(words, left, right)| {
        let (left, right) = (
            if left { "{{- " } else { "{{" },
            if right { " -}}" } else { "}}" },
        );
        format!("{left}{}{right}", words.join(" "))
    })
}

proptest! {
    #[test]
    fn no_template_panics(text in "([{}a-z.|()\"`$ -]|\\{\\{|\\}\\}|range|if|end|\\.Id|é|\\PC){0,30}") {
        let _ = filled(&text);
    }

    #[test]
    fn no_actions_panic(actions in prop::collection::vec(action(), 0..6)) {
        let _ = filled(&actions.concat());
        let balanced = format!("{{{{range .RepoTags}}}}{}{{{{end}}}}", actions.concat());
        let _ = filled(&balanced);
    }

    #[test]
    fn printf_never_panics(format in "([a-z ]|%[-+# 0]{0,2}[0-9]{0,3}(\\.[0-9]{0,2})?[a-zA-Z%é]?){0,6}", number in any::<i64>()) {
        let values = [value::Val::Int(number), value::Val::Text("é".to_owned()), value::Val::Null];
        let _ = printf::printf(&format, &values);
    }

    #[test]
    fn quoted_text_reads_back(text in "\\PC{0,12}|[\\x00-\\x7f]{0,12}") {
        let quoted = printf::quote(&text);
        prop_assert_eq!(printf::unquote(&quoted[1..quoted.len() - 1]), Some(text));
    }
}

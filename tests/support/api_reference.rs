//! Generates the API reference in Markdown from the CRDs. Pure.

use serde_json::Value;

/// Returns the reference of all kinds, in the order of `crds`.
pub fn of(crds: &[Value]) -> String {
    let head = "# API reference\n\nMade from `crds/` by `make api-docs`; do not edit.\n";
    head.to_owned() + &crds.iter().map(kind).collect::<String>()
}

/// Returns the sections of a kind. Their titles are the paths that `kubectl explain` takes.
fn kind(crd: &Value) -> String {
    let (names, version) = (&crd["spec"]["names"], &crd["spec"]["versions"][0]);
    let schema = &version["schema"]["openAPIV3Schema"];
    let (kind, short_name) = (line(&names["kind"]), line(&names["shortNames"][0]));
    let head = format!(
        "\n## {kind}\n\n{}\n\n`apiVersion: {}/{}`, `kind: {kind}`, short name `{short_name}`.\n",
        line(&schema["description"]),
        line(&crd["spec"]["group"]),
        line(&version["name"]),
    );
    let parts = ["spec", "status"];
    head + &parts.map(|part| section(&format!("{short_name}.{part}"), &schema["properties"][part])).concat()
}

/// Returns the section of the object at `path`, and of each object in it.
fn section(path: &str, schema: &Value) -> String {
    let properties: Vec<(&String, &Value)> = schema["properties"].as_object().into_iter().flatten().collect();
    let required = schema["required"].as_array();
    let row = |(name, property): &(&String, &Value)| {
        let is_required = required.is_some_and(|names| names.iter().any(|it| it == name.as_str()));
        let mark = if is_required { ", required" } else { "" };
        format!("| `{name}` | {}{mark} | {} |\n", type_of(property), text(property))
    };
    let rows: String = properties.iter().map(row).collect();
    let inner = properties.iter().flat_map(|(name, property)| {
        [(format!("{path}.{name}"), *property), (format!("{path}.{name}[]"), &property["items"])]
    });
    let objects = inner.filter(|(_, inner)| inner["properties"].is_object());
    let sections: String = objects.map(|(path, inner)| section(&path, inner)).collect();
    format!("\n### {path}\n\n{}\n\n| field | type | |\n|---|---|---|\n{rows}{sections}", text(schema))
}

fn type_of(property: &Value) -> String {
    match (&property["items"]["type"], line(&property["format"]).as_str()) {
        (Value::String(items), _) => format!("list of {items}s"),
        (_, "date-time") => "time".to_owned(),
        _ => line(&property["type"]),
    }
}

/// Returns the description, and the messages with which admission refuses values.
fn text(schema: &Value) -> String {
    let default = schema.get("default").filter(|it| **it != "" && **it != 0 && !it.is_object());
    let values = schema["enum"].as_array().map(|values| values.iter().map(line).collect::<Vec<_>>());
    let rules = [schema, &schema["items"]].map(|it| it["x-kubernetes-validations"].as_array());
    let refusals = rules.into_iter().flatten().flatten().filter(|rule| rule["message"].is_string());
    let sentences = [
        Some(line(&schema["description"])),
        values.map(|values| format!("One of `{}`.", values.join("`, `"))),
        default.map(|default| format!("Default: `{}`.", default.to_string().replace('"', ""))),
    ];
    let refusals = refusals.map(|rule| format!("Refused with \"{}\".", line(&rule["message"])));
    sentences.into_iter().flatten().chain(refusals).collect::<Vec<_>>().join(" ")
}

/// Returns a text without line breaks, as a cell of a table.
fn line(value: &Value) -> String {
    value.as_str().unwrap_or_default().replace('\n', " ").replace('|', "\\|")
}

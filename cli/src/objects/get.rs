//! `waggle get`: the table that the server makes, or objects as they are.

use anyhow::bail;
use kube::Client;
use serde_json::Value;

use super::Where;
use super::connect::connect;
use super::resource::{self, Resource};
use crate::table::table;

const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";

#[derive(Debug, clap::Args)]
pub(crate) struct GetArguments {
    /// `pods`, `deploy/web`, …
    kind: String,
    names: Vec<String>,
    /// In all namespaces.
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// Label selector.
    #[arg(short = 'l', long, default_value = "")]
    selector: String,
    #[arg(short, long, value_enum, default_value_t = Form::Table)]
    output: Form,
    #[command(flatten)]
    place: Where,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Form {
    Table,
    Wide,
    Json,
    Yaml,
    Name,
}

pub(super) async fn run(arguments: &GetArguments) -> anyhow::Result<()> {
    let (client, namespace) = connect(&arguments.place).await?;
    let (kind, named) = arguments
        .kind
        .split_once('/')
        .unwrap_or((&arguments.kind, ""));
    let mut names: Vec<&str> = arguments.names.iter().map(String::as_str).collect();
    if !named.is_empty() {
        names.insert(0, named);
    }
    let resource = resource::find(&client, kind).await?;
    let namespace = (!arguments.all_namespaces).then_some(namespace.as_str());
    if names.is_empty() {
        let query = form(&[("labelSelector", &arguments.selector)]);
        let path = format!("{}{query}", resource.path(namespace, None));
        let list = fetch(&client, &path, arguments.output).await?;
        return print(&resource, &list, arguments);
    }
    if namespace.is_none() || !arguments.selector.is_empty() {
        bail!("names go with neither --all-namespaces nor --selector");
    }
    for name in names {
        let path = resource.path(namespace, Some(name));
        let object = fetch(&client, &path, arguments.output).await?;
        print(&resource, &object, arguments)?;
    }
    Ok(())
}

fn form(parameters: &[(&str, &str)]) -> String {
    let mut query = String::new();
    for (name, value) in parameters.iter().filter(|(_, value)| !value.is_empty()) {
        let escaped: String = value
            .bytes()
            .map(|byte| match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' => {
                    char::from(byte).to_string()
                }
                _ => format!("%{byte:02X}"),
            })
            .collect();
        query.push(if query.is_empty() { '?' } else { '&' });
        query.push_str(&format!("{name}={escaped}"));
    }
    query
}

async fn fetch(client: &Client, path: &str, form: Form) -> anyhow::Result<Value> {
    let accept = match form {
        Form::Table | Form::Wide => TABLE,
        _ => "application/json",
    };
    let request = http::Request::get(path)
        .header(http::header::ACCEPT, accept)
        .body(Vec::new())?;
    Ok(client.request(request).await?)
}

fn print(resource: &Resource, value: &Value, arguments: &GetArguments) -> anyhow::Result<()> {
    match arguments.output {
        Form::Json => println!("{}", serde_json::to_string_pretty(value)?),
        Form::Yaml => print!("{}", serde_saphyr::to_string(value)?),
        Form::Name => {
            let one = std::slice::from_ref(value);
            for item in value["items"].as_array().map_or(one, Vec::as_slice) {
                let name = item["metadata"]["name"].as_str().unwrap_or_default();
                println!("{}/{name}", resource.label());
            }
        }
        Form::Table | Form::Wide => {
            let wide = arguments.output == Form::Wide;
            let all = arguments.all_namespaces && resource.namespaced;
            let text = rows(value, wide, all);
            if text.is_empty() {
                eprintln!("No resources found");
            }
            print!("{text}");
        }
    }
    Ok(())
}

/// A Table of the server as text.
fn rows(value: &Value, wide: bool, namespaces: bool) -> String {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let columns: Vec<(usize, String)> = list(&value["columnDefinitions"])
        .iter()
        .enumerate()
        .filter(|(_, column)| wide || column["priority"] == 0 || column["priority"].is_null())
        .map(|(index, column)| {
            let name = column["name"].as_str().unwrap_or_default();
            (index, name.to_uppercase())
        })
        .collect();
    let mut header: Vec<&str> = columns.iter().map(|(_, name)| name.as_str()).collect();
    if namespaces {
        header.insert(0, "NAMESPACE");
    }
    let rows = list(&value["rows"]).into_iter().map(|row| {
        let mut cells: Vec<String> = columns
            .iter()
            .map(|(index, _)| match &row["cells"][*index] {
                Value::String(text) => text.clone(),
                Value::Null => String::new(),
                other => other.to_string(),
            })
            .collect();
        if namespaces {
            let namespace = row["object"]["metadata"]["namespace"].as_str();
            cells.insert(0, namespace.unwrap_or_default().to_owned());
        }
        cells
    });
    let mut out = String::new();
    table(&mut out, &header, rows);
    out.trim_start_matches('\n').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_servers_table() {
        let value = json!({
            "columnDefinitions": [
                {"name": "Name", "priority": 0}, {"name": "Ready", "priority": 0}, {"name": "IP", "priority": 1}],
            "rows": [{"cells": ["web", 1, "10.0.0.1"], "object": {"metadata": {"namespace": "a"}}}]});
        assert_eq!(rows(&value, false, false), "NAME  READY\nweb   1\n");
        assert_eq!(
            rows(&value, true, true),
            "NAMESPACE  NAME  READY  IP\na          web   1      10.0.0.1\n"
        );
        assert_eq!(rows(&json!({"rows": []}), false, false), "");
        assert_eq!(
            form(&[("labelSelector", "a=b,c"), ("x", "")]),
            "?labelSelector=a%3Db%2Cc"
        );
    }
}

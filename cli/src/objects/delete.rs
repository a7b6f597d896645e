//! `waggle delete`: by name, by label or by manifest; returns when the objects are gone.

use std::path::PathBuf;

use anyhow::{Context as _, bail};
use kube::Client;
use kube::api::{DeleteParams, ListParams};
use kube::runtime::wait::{await_condition, conditions};

use super::connect::connect;
use super::resource::Resource;
use super::{Where, manifest, resource};

#[derive(Debug, clap::Args)]
pub(crate) struct DeleteArguments {
    /// `pods`, `deploy/web`, …
    kind: Option<String>,
    names: Vec<String>,
    /// Instead: what is in manifests; `-` is standard input.
    #[arg(short, long = "filename")]
    filename: Vec<PathBuf>,
    /// Label selector.
    #[arg(short = 'l', long, default_value = "")]
    selector: String,
    /// Seconds that pods have to end.
    #[arg(long)]
    grace_period: Option<u32>,
    /// Do not wait until the objects are gone.
    #[arg(long)]
    no_wait: bool,
    #[command(flatten)]
    place: Where,
}

pub(super) async fn run(arguments: &DeleteArguments) -> anyhow::Result<()> {
    let (client, namespace) = connect(&arguments.place).await?;
    let mut doomed: Vec<(Resource, String, String)> = Vec::new();
    if let Some(word) = &arguments.kind {
        let (kind, named) = word.split_once('/').unwrap_or((word, ""));
        let resource = resource::find(&client, kind).await?;
        let named = Some(named.to_owned()).filter(|name| !name.is_empty());
        let mut names: Vec<String> = named.into_iter().chain(arguments.names.clone()).collect();
        if !arguments.selector.is_empty() {
            let chosen = ListParams::default().labels(&arguments.selector);
            let list = resource.objects(&client, &namespace).list(&chosen).await?;
            names.extend(list.items.into_iter().filter_map(|it| it.metadata.name));
        }
        let all = names.into_iter();
        doomed.extend(all.map(|name| (resource.clone(), namespace.clone(), name)));
    }
    if !arguments.filename.is_empty() {
        let resources = resource::all(&client).await?;
        for path in &arguments.filename {
            for object in manifest::read(path)? {
                let types = object.types.unwrap_or_default();
                let resource = resource::of_kind(&resources, &types.api_version, &types.kind)
                    .with_context(|| format!("no matches for kind \"{}\"", types.kind))?;
                let place = object.metadata.namespace.unwrap_or(namespace.clone());
                let name = object.metadata.name.unwrap_or_default();
                doomed.push((resource.clone(), place, name));
            }
        }
    }
    if doomed.is_empty() && arguments.selector.is_empty() {
        bail!("name what is to be deleted, or give --filename or --selector");
    }
    delete(&client, doomed, arguments).await
}

async fn delete(
    client: &Client,
    doomed: Vec<(Resource, String, String)>,
    arguments: &DeleteArguments,
) -> anyhow::Result<()> {
    let parameters = DeleteParams {
        grace_period_seconds: arguments.grace_period,
        ..DeleteParams::default()
    };
    let mut going = Vec::new();
    for (resource, namespace, name) in doomed {
        let api = resource.objects(client, &namespace);
        let answer = api.delete(&name, &parameters).await?;
        println!("{} \"{name}\" deleted", resource.label());
        if let Some(uid) = answer.left().and_then(|object| object.metadata.uid) {
            going.push((api, name, uid));
        }
    }
    if !arguments.no_wait {
        for (api, name, uid) in going {
            await_condition(api, &name, conditions::is_deleted(&uid)).await?;
        }
    }
    Ok(())
}

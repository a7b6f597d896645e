//! `waggle apply`: server-side apply of a manifest's objects.

use std::path::PathBuf;

use anyhow::Context as _;
use kube::api::{Patch, PatchParams};

use super::connect::connect;
use super::{Where, manifest, resource};

const MANAGER: &str = "waggle";

#[derive(Debug, clap::Args)]
pub(crate) struct ApplyArguments {
    /// Manifests; `-` is standard input.
    #[arg(short, long = "filename", required = true)]
    filename: Vec<PathBuf>,
    /// Take fields from who set them before.
    #[arg(long)]
    force_conflicts: bool,
    #[command(flatten)]
    place: Where,
}

pub(super) async fn run(arguments: &ApplyArguments) -> anyhow::Result<()> {
    let (client, namespace) = connect(&arguments.place).await?;
    let resources = resource::all(&client).await?;
    let mut parameters = PatchParams::apply(MANAGER);
    parameters.force = arguments.force_conflicts;
    for path in &arguments.filename {
        for object in manifest::read(path)? {
            let types = object.types.clone().unwrap_or_default();
            let name = object.metadata.name.clone().unwrap_or_default();
            let resource = resource::of_kind(&resources, &types.api_version, &types.kind)
                .with_context(|| {
                    format!(
                        "no matches for kind \"{}\" in version \"{}\"",
                        types.kind, types.api_version
                    )
                })?;
            let place = object.metadata.namespace.as_deref().unwrap_or(&namespace);
            let api = resource.objects(&client, place);
            api.patch(&name, &parameters, &Patch::Apply(&object))
                .await
                .with_context(|| format!("{}/{name}", resource.label()))?;
            println!("{}/{name} serverside-applied", resource.label());
        }
    }
    Ok(())
}

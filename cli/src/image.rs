//! `waggle image`: the images of this node, also while its agent runs.

use std::path::{Path, PathBuf};

use agent::images::{ImageStore, build};
use anyhow::Context as _;

use crate::logging::{self, LogSettings};

#[derive(Debug, clap::Args)]
pub(crate) struct ImageArguments {
    #[command(subcommand)]
    action: Action,
    /// Data directory of the agent (that of `waggle dev` holds it in `agent/`).
    #[arg(long, global = true, default_value = "/var/lib/waggle/dev/agent")]
    data_dir: PathBuf,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Import an OCI layout (directory or archive) or a `docker save` archive.
    Import {
        path: PathBuf,
        /// Name it so, instead of as the archive says.
        #[arg(long)]
        name: Option<String>,
    },
    /// List the images.
    List {
        #[arg(long, value_enum, default_value_t = Output::Text)]
        output: Output,
    },
    /// Remove an image; its layers go with the last image that uses them.
    Remove { reference: String },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Output {
    Text,
    Json,
}

pub(crate) fn run(arguments: &ImageArguments, log: &LogSettings) -> anyhow::Result<()> {
    logging::start(
        &LogSettings {
            filter: "warn".to_owned(),
            ..log.clone()
        },
        None,
    )?;
    crate::runtime()?.block_on(execute(arguments))
}

fn folder(data_dir: &Path) -> PathBuf {
    data_dir.join("images")
}

async fn execute(arguments: &ImageArguments) -> anyhow::Result<()> {
    let store = ImageStore::open(&folder(&arguments.data_dir)).await?;
    match &arguments.action {
        Action::Import { path, name } => {
            for reference in store.import(path, name.as_deref()).await? {
                println!("imported {reference}");
            }
        }
        Action::List { output } => list(&store, *output).await?,
        Action::Remove { reference } => {
            store.remove(reference).await?;
            println!("removed {reference}");
        }
    }
    Ok(())
}

async fn list(store: &ImageStore, output: Output) -> anyhow::Result<()> {
    let images = store.list().await?;
    if output == Output::Json {
        let rows: Vec<_> = images
            .iter()
            .map(|image| {
                serde_json::json!({
                    "reference": image.reference, "digest": image.digest, "sizeBytes": image.size_bytes
                })
            })
            .collect();
        println!("{}", serde_json::to_string_pretty(&rows)?);
        return Ok(());
    }
    let width = images
        .iter()
        .map(|image| image.reference.len())
        .max()
        .unwrap_or(0)
        .max(9);
    println!("{:<width$}  {:>10}  DIGEST", "REFERENCE", "SIZE");
    for image in &images {
        let mib = format!("{:.1} MiB", image.size_bytes as f64 / 1_048_576.0);
        println!("{:<width$}  {mib:>10}  {}", image.reference, image.digest);
    }
    Ok(())
}

/// Makes an image of one static busybox with its applets, and of further programs of this machine with
/// the libraries that they load, and imports it, unless it is there.
pub(crate) async fn make_busybox_image(
    agent_data_dir: &Path,
    busybox: &Path,
    programs: &[PathBuf],
    reference: &str,
) -> anyhow::Result<()> {
    let store = ImageStore::open(&folder(agent_data_dir)).await?;
    if store
        .list()
        .await?
        .iter()
        .any(|image| image.reference == reference)
    {
        return Ok(());
    }
    let root = agent_data_dir.join(format!("demo-image.{}", std::process::id()));
    let made = lay_out(&store, &root, busybox, programs, reference).await;
    let _ = std::fs::remove_dir_all(&root);
    made.with_context(|| format!("make the image {reference}"))
}

async fn lay_out(
    store: &ImageStore,
    root: &Path,
    busybox: &Path,
    programs: &[PathBuf],
    reference: &str,
) -> anyhow::Result<()> {
    build::busybox_rootfs(root, busybox)?;
    for program in programs {
        add_program(root, program)?;
    }
    let mut config = oci_spec::image::Config::default();
    config.set_env(Some(vec!["PATH=/bin".to_owned()]));
    config.set_cmd(Some(vec!["sh".to_owned()]));
    build::from_directory(store, root, &config, reference).await?;
    Ok(())
}

/// Copies a program to `/bin` and the shared objects that it loads to where it looks for them.
fn add_program(root: &Path, program: &Path) -> anyhow::Result<()> {
    let name = program
        .file_name()
        .with_context(|| format!("{} has no name", program.display()))?;
    std::fs::copy(program, root.join("bin").join(name))
        .with_context(|| format!("copy {}", program.display()))?;
    let listing = std::process::Command::new("ldd")
        .arg(program)
        .output()
        .context("run ldd")?;
    for library in shared_objects(&String::from_utf8_lossy(&listing.stdout)) {
        let target = root.join(library.trim_start_matches('/'));
        if let Some(folder) = target.parent() {
            std::fs::create_dir_all(folder)?;
        }
        std::fs::copy(library, &target).with_context(|| format!("copy {library}"))?;
    }
    Ok(())
}

/// The absolute paths in ldd's output: `name => /path (0x…)`, and the loader's `/path (0x…)`.
fn shared_objects(listing: &str) -> impl Iterator<Item = &str> {
    listing.lines().filter_map(|line| {
        let path = line.split("=>").last()?.trim().split(' ').next()?;
        path.starts_with('/').then_some(path)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_and_the_loader_are_found_and_the_vdso_is_not() {
        let listing = "\tlinux-vdso.so.1 (0x00007f)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)\n\t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        let found: Vec<&str> = shared_objects(listing).collect();
        assert_eq!(
            found,
            [
                "/lib/x86_64-linux-gnu/libc.so.6",
                "/lib64/ld-linux-x86-64.so.2"
            ]
        );
    }
}

//! Volumes that are images: pulled with the image of the container that uses them, mounted before it begins.

use k8s_openapi::api::core::v1::Container;

use super::Worker;
use super::image::policy;
use crate::images::{Credentials, Image, PullPolicy, Purpose};
use crate::pods::machine::{ImageFailure, Machine};

/// A volume's name, the image and when it is pulled.
pub(super) type Wanted = (String, String, PullPolicy);

/// One after the other; the first failure is that of all.
pub(super) async fn pull<M: Machine>(
    machine: &M,
    volumes: Vec<Wanted>,
    credentials: &[Credentials],
) -> Result<Vec<(String, Image)>, ImageFailure> {
    let mut pulled = Vec::new();
    for (name, reference, policy) in volumes {
        let image = machine.ensure_image(&reference, policy, credentials).await;
        let image = image.map_err(|failure| ImageFailure {
            message: format!("volume {name:?}: {}", failure.message),
            ..failure
        })?;
        pulled.push((name, image));
    }
    Ok(pulled)
}

impl<M: Machine> Worker<M> {
    /// Those that the container mounts.
    pub(super) fn image_volumes(&self, container: &Container) -> Vec<Wanted> {
        let mounted = |name: &String| {
            let mut mounts = container.volume_mounts.iter().flatten();
            mounts.any(|mount| mount.name == *name)
        };
        let volumes = self.volumes().iter().filter(|it| mounted(&it.name));
        volumes
            .filter_map(|volume| {
                let source = volume.image.as_ref()?;
                let reference = source.reference.clone().unwrap_or_default();
                let policy = policy(source.pull_policy.as_deref(), &reference);
                Some((volume.name.clone(), reference, policy))
            })
            .collect()
    }

    /// Idempotent. What is mounted stays until the pod is released.
    pub(super) async fn mount_image_volumes(&self, container: &Container) -> Result<(), String> {
        for (name, reference, _) in self.image_volumes(container) {
            let image = self.volume_images.get(&name);
            let image = image.ok_or_else(|| format!("image {reference:?} is not present"))?;
            let dir = self.dirs.volumes().join(&name);
            let users = self.users();
            self.context
                .machine
                .mount_image(image, &dir, Purpose::Volume, users.as_ref())
                .await?;
        }
        Ok(())
    }
}

//! A machine that is there, whose agent dies at a step that is chosen: before it has an effect, after it, or while a
//! container is being started. Whoever was to take the next step then waits for good, as if the process were gone.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use super::{Attached, ImageFailure, Machine, NetworkWishes, PodSandbox};
use crate::images::{Credentials, Image, PullPolicy, Purpose};
use crate::runtime::{ContainerSpec, ContainerState, ExecOutcome, Resources, SandboxSpec};
use crate::userns::UserNamespace;

/// When an agent dies, by the number of the step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Death {
    Before(u32),
    After(u32),
    /// The supervisor has been told to run a container and is about it.
    WhileStarting,
}

/// What becomes of one agent.
#[derive(Debug, Default)]
pub(crate) struct Fate {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    steps: u32,
    dies: Option<Death>,
    died: bool,
}

impl Fate {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Steps count from now on.
    pub(crate) fn set(&self, death: Option<Death>) {
        *self.lock() = State {
            dies: death,
            ..State::default()
        };
    }

    pub(crate) fn has_struck(&self) -> bool {
        self.lock().died
    }

    /// Does not return to who is to die here, or is dead.
    async fn at(&self, moment: Death) {
        let dead = {
            let mut state = self.lock();
            state.died |= state.dies == Some(moment);
            state.died
        };
        if dead {
            std::future::pending::<()>().await;
        }
    }

    async fn step<T>(&self, act: impl Future<Output = T>) -> T {
        let step = {
            let mut state = self.lock();
            state.steps += 1;
            state.steps
        };
        self.at(Death::Before(step)).await;
        let result = act.await;
        self.at(Death::After(step)).await;
        result
    }
}

#[derive(Debug)]
pub(crate) struct Mortal<M> {
    pub(crate) machine: M,
    pub(crate) fate: Arc<Fate>,
}

#[derive(Debug, Clone)]
pub(crate) struct MortalSandbox<S> {
    sandbox: S,
    run_dir: PathBuf,
    fate: Arc<Fate>,
}

impl<M: Machine> Mortal<M> {
    fn behind(&self, sandbox: M::Sandbox, run_dir: &Path) -> MortalSandbox<M::Sandbox> {
        MortalSandbox {
            sandbox,
            run_dir: run_dir.to_owned(),
            fate: Arc::clone(&self.fate),
        }
    }
}

impl<M: Machine> Machine for Mortal<M> {
    type Sandbox = MortalSandbox<M::Sandbox>;

    async fn ensure_image(
        &self,
        reference: &str,
        policy: PullPolicy,
        credentials: &[Credentials],
    ) -> Result<Image, ImageFailure> {
        let act = self.machine.ensure_image(reference, policy, credentials);
        self.fate.step(act).await
    }

    async fn mount_image(
        &self,
        image: &Image,
        dir: &Path,
        purpose: Purpose,
        users: Option<&UserNamespace>,
    ) -> Result<PathBuf, String> {
        let act = self.machine.mount_image(image, dir, purpose, users);
        self.fate.step(act).await
    }

    async fn unmount_image(&self, dir: &Path) -> Result<(), String> {
        self.fate.step(self.machine.unmount_image(dir)).await
    }

    async fn attach_network(&self, uid: &str, wishes: &NetworkWishes) -> Result<Attached, String> {
        let act = self.machine.attach_network(uid, wishes);
        self.fate.step(act).await
    }

    async fn detach_network(&self, uid: &str) -> Result<(), String> {
        self.fate.step(self.machine.detach_network(uid)).await
    }

    async fn networks_detached(&self) {
        self.machine.networks_detached().await;
    }

    async fn list_networks(&self) -> Result<Vec<String>, String> {
        self.machine.list_networks().await
    }

    async fn start_sandbox(&self, spec: &SandboxSpec) -> Result<Self::Sandbox, String> {
        let sandbox = self.fate.step(self.machine.start_sandbox(spec)).await?;
        Ok(self.behind(sandbox, &spec.run_dir))
    }

    async fn connect_sandbox(&self, run_dir: &Path) -> Result<Option<Self::Sandbox>, String> {
        let found = self.machine.connect_sandbox(run_dir).await?;
        Ok(found.map(|sandbox| self.behind(sandbox, run_dir)))
    }

    async fn sweep_sandbox(
        &self,
        run_dir: &Path,
    ) -> Result<BTreeMap<String, ContainerState>, String> {
        self.fate.step(self.machine.sweep_sandbox(run_dir)).await
    }

    fn mount_tmpfs(&self, dir: &Path, size_bytes: Option<u64>) -> Result<(), String> {
        self.machine.mount_tmpfs(dir, size_bytes)
    }

    fn mount_sub_path(&self, root: &Path, sub: &str, target: &Path) -> Result<(), String> {
        self.machine.mount_sub_path(root, sub, target)
    }

    fn unmount_sub_paths(&self, place: &Path) -> Result<(), String> {
        self.machine.unmount_sub_paths(place)
    }

    fn mount_huge_pages(&self, dir: &Path, page_bytes: u64) -> Result<(), String> {
        self.machine.mount_huge_pages(dir, page_bytes)
    }

    fn unmount_below(&self, dir: &Path) -> Result<(), String> {
        self.machine.unmount_below(dir)
    }
}

impl<S: PodSandbox> PodSandbox for MortalSandbox<S> {
    async fn run(&self, spec: &ContainerSpec) -> Result<(), String> {
        if self.fate.lock().dies == Some(Death::WhileStarting) {
            let (sandbox, asked) = (self.sandbox.clone(), spec.clone());
            // What was asked of a supervisor it does, whether anybody waits for the answer or not.
            tokio::spawn(async move { sandbox.run(&asked).await });
            let log = crate::supervisor::config::bundle(&self.run_dir, &spec.id);
            while !log.join("runc.log").exists() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            self.fate.at(Death::WhileStarting).await;
        }
        self.fate.step(self.sandbox.run(spec)).await
    }

    async fn start_container(&self, id: &str) -> Result<(), String> {
        self.fate.step(self.sandbox.start_container(id)).await
    }

    async fn kill(&self, id: &str, signal: i32) -> Result<(), String> {
        self.fate.step(self.sandbox.kill(id, signal)).await
    }

    async fn set_resources(&self, id: Option<&str>, resources: &Resources) -> Result<(), String> {
        self.sandbox.set_resources(id, resources).await
    }

    async fn delete(&self, id: &str) -> Result<(), String> {
        self.fate.step(self.sandbox.delete(id)).await
    }

    async fn states(&self) -> Result<BTreeMap<String, ContainerState>, String> {
        self.sandbox.states().await
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.sandbox.changes()
    }

    async fn exec(
        &self,
        id: &str,
        args: &[String],
        timeout: Duration,
        max_output: usize,
    ) -> Result<ExecOutcome, String> {
        self.sandbox.exec(id, args, timeout, max_output).await
    }

    async fn stop(self) -> Result<(), String> {
        let fate = Arc::clone(&self.fate);
        fate.step(self.sandbox.stop()).await
    }
}

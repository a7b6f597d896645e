//! A machine that is not there: images by name, networks that are numbers, programs that are scripts of
//! what they will do. It keeps the promise that it checks: never two live attempts of one container.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::watch;

use super::{Attached, ImageFailure, Machine, NetworkWishes, PodSandbox};
use crate::images::{Credentials, Image, PullPolicy, Purpose};
use crate::runtime::{ContainerSpec, ContainerState, ExecOutcome, Resources, SandboxSpec};
use crate::userns::UserNamespace;

/// What a container's program does, by container name.
#[derive(Debug, Clone, Default)]
pub(crate) struct Program {
    /// Ends by itself after so long, with this code.
    pub(crate) ends: Option<(Duration, i32)>,
    pub(crate) ignores_signals: bool,
    /// What the runtime says instead of creating it.
    pub(crate) create_error: Option<String>,
    /// The exit code of any command run in it.
    pub(crate) exec_code: i32,
    /// How long any command runs in it.
    pub(crate) exec_takes: Duration,
}

#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) programs: BTreeMap<String, Program>,
    pub(crate) missing_images: BTreeSet<String>,
    pub(crate) network_error: Option<String>,
    pub(crate) networks: BTreeSet<String>,
    /// Of every network that was attached.
    pub(crate) wishes: BTreeMap<String, NetworkWishes>,
    pub(crate) mounts: BTreeSet<PathBuf>,
    sandboxes: BTreeMap<PathBuf, FakeSandbox>,
    pub(crate) created: Vec<String>,
    pub(crate) signals: Vec<(String, i32)>,
    /// Steps that were taken, and the one that the agent does not outlive: before it has an effect, or after.
    steps: u32,
    dies: Option<(u32, Moment)>,
    died: bool,
    /// The step at which whoever takes it panics.
    panics: Option<(u32, Moment)>,
    /// Limits that were set on running containers, or (no name) on the pod.
    pub(crate) resized: Vec<(String, Resources)>,
    /// The machine's clock was set back by so much since the agent began.
    pub(crate) clock_behind: Duration,
    /// Commands that were run: container, first word.
    pub(crate) commands: Vec<(String, String)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moment {
    Before,
    After,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct FakeMachine {
    pub(crate) state: Arc<Mutex<State>>,
}

impl FakeMachine {
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn program(&self, container: &str, program: Program) {
        self.lock().programs.insert(container.to_owned(), program);
    }

    /// The agent is killed at this step from now on counted.
    pub(crate) fn die_at(&self, step: u32, moment: Moment) {
        let mut state = self.lock();
        (state.steps, state.dies, state.died) = (0, Some((step, moment)), false);
    }

    /// Whoever takes this step from now on counted panics; the next one to take it does not.
    pub(crate) fn panic_at(&self, step: u32, moment: Moment) {
        let mut state = self.lock();
        (state.steps, state.panics) = (0, Some((step, moment)));
    }

    pub(crate) fn has_panicked(&self) -> bool {
        self.lock().panics.is_none()
    }

    pub(crate) fn has_died(&self) -> bool {
        self.lock().died
    }

    /// The next agent lives.
    pub(crate) fn live_on(&self) {
        self.lock().dies = None;
    }

    /// Does not return to an agent that is to die here.
    async fn step(&self, moment: Moment) {
        let dies = {
            let mut state = self.lock();
            state.steps += u32::from(moment == Moment::Before);
            let dies =
                state.dies == Some((state.steps, moment)) || (state.died && state.dies.is_some());
            state.died |= dies;
            let here = (state.steps, moment);
            if state.panics.take_if(|at| *at == here).is_some() {
                drop(state);
                panic!("planted at step {}, {moment:?}", here.0);
            }
            dies
        };
        if dies {
            std::future::pending::<()>().await;
        }
    }

    /// Nothing of any pod is there.
    pub(crate) fn is_clean(&self) -> bool {
        let state = self.lock();
        state.networks.is_empty() && state.mounts.is_empty() && state.sandboxes.is_empty()
    }

    pub(crate) fn sandbox(&self) -> Option<FakeSandbox> {
        self.lock().sandboxes.values().next().cloned()
    }

    /// The supervisor dies, with all that it supervised.
    pub(crate) fn lose_sandboxes(&self) {
        for sandbox in std::mem::take(&mut self.lock().sandboxes).into_values() {
            sandbox.lock().gone = true;
            sandbox.announce();
        }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct FakeSandbox {
    machine: FakeMachine,
    run_dir: PathBuf,
    inner: Arc<Mutex<Inner>>,
    changes: Arc<watch::Sender<u64>>,
}

#[derive(Debug, Default)]
struct Inner {
    containers: BTreeMap<String, ContainerState>,
    gone: bool,
}

impl FakeSandbox {
    /// One that belongs to no machine that anybody looks at.
    pub(crate) fn alone(programs: BTreeMap<String, Program>) -> Self {
        let machine = FakeMachine::default();
        machine.lock().programs = programs;
        Self {
            machine,
            run_dir: PathBuf::new(),
            inner: Arc::default(),
            changes: Arc::new(watch::Sender::new(0)),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn announce(&self) {
        self.changes.send_modify(|counter| *counter += 1);
    }

    fn program_of(&self, id: &str) -> Program {
        let state = self.machine.lock();
        state.programs.get(name_of(id)).cloned().unwrap_or_default()
    }

    fn begin(&self, id: &str) {
        let program = self.program_of(id);
        let behind = self.machine.lock().clock_behind;
        if let Some(state) = self.lock().containers.get_mut(id) {
            *state = ContainerState::Running {
                pid: 1,
                started_at: SystemTime::now() - behind,
            };
        }
        if let Some((after, code)) = program.ends {
            let (sandbox, id) = (self.clone(), id.to_owned());
            tokio::spawn(async move {
                tokio::time::sleep(after).await;
                sandbox.end(&id, code, None);
            });
        }
        self.announce();
    }

    fn end(&self, id: &str, code: i32, signal: Option<i32>) {
        if let Some(state) = self.lock().containers.get_mut(id)
            && !matches!(state, ContainerState::Exited { .. })
        {
            *state = ContainerState::Exited {
                code,
                signal,
                oom_killed: false,
                started_at: Some(SystemTime::now()),
                finished_at: SystemTime::now(),
            };
        }
        self.announce();
    }

    pub(crate) fn live(&self) -> Vec<String> {
        self.lock()
            .containers
            .iter()
            .filter(|(_, state)| !matches!(state, ContainerState::Exited { .. }))
            .map(|(id, _)| id.clone())
            .collect()
    }

    fn check(&self) -> Result<(), String> {
        if self.lock().gone {
            return Err("the supervisor is gone".to_owned());
        }
        Ok(())
    }
}

/// `<uid>_<name>_<number>`.
fn name_of(id: &str) -> &str {
    id.split('_').nth(1).unwrap_or_default()
}

impl Machine for FakeMachine {
    type Sandbox = FakeSandbox;

    async fn ensure_image(
        &self,
        reference: &str,
        policy: PullPolicy,
        _credentials: &[Credentials],
    ) -> Result<Image, ImageFailure> {
        self.step(Moment::Before).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        if self.lock().missing_images.contains(reference) {
            let reason = match policy {
                PullPolicy::Never => "ErrImageNeverPull",
                _ => "ErrImagePull",
            };
            return Err(ImageFailure {
                reason: reason.to_owned(),
                message: "not found".to_owned(),
            });
        }
        let mut config = oci_spec::image::Config::default();
        config.set_cmd(Some(vec!["/run".to_owned()]));
        Ok(Image {
            reference: reference.to_owned(),
            digest: format!("sha256:{}", "0".repeat(64)),
            config,
            layers: Vec::new(),
            size_bytes: 1,
        })
    }

    async fn mount_image(
        &self,
        _image: &Image,
        dir: &Path,
        _purpose: Purpose,
        _users: Option<&UserNamespace>,
    ) -> Result<PathBuf, String> {
        self.step(Moment::Before).await;
        self.lock().mounts.insert(dir.to_owned());
        self.step(Moment::After).await;
        Ok(dir.join("rootfs"))
    }

    async fn unmount_image(&self, dir: &Path) -> Result<(), String> {
        self.step(Moment::Before).await;
        self.lock().mounts.remove(dir);
        self.step(Moment::After).await;
        Ok(())
    }

    async fn attach_network(&self, uid: &str, wishes: &NetworkWishes) -> Result<Attached, String> {
        self.step(Moment::Before).await;
        {
            let mut state = self.lock();
            if let Some(error) = &state.network_error {
                return Err(error.clone());
            }
            state.networks.insert(uid.to_owned());
            state.wishes.insert(uid.to_owned(), wishes.clone());
        }
        self.step(Moment::After).await;
        Ok(Attached {
            netns: PathBuf::from("/netns").join(uid),
            addresses: vec![std::net::IpAddr::from([10, 0, 0, 1])],
        })
    }

    async fn detach_network(&self, uid: &str) -> Result<(), String> {
        self.step(Moment::Before).await;
        self.lock().networks.remove(uid);
        self.step(Moment::After).await;
        Ok(())
    }

    async fn networks_detached(&self) {}

    async fn list_networks(&self) -> Result<Vec<String>, String> {
        Ok(self.lock().networks.iter().cloned().collect())
    }

    async fn start_sandbox(&self, spec: &SandboxSpec) -> Result<FakeSandbox, String> {
        self.step(Moment::Before).await;
        let sandbox = FakeSandbox {
            machine: self.clone(),
            run_dir: spec.run_dir.clone(),
            inner: Arc::default(),
            changes: Arc::new(watch::Sender::new(0)),
        };
        let before = self
            .lock()
            .sandboxes
            .insert(spec.run_dir.clone(), sandbox.clone());
        assert!(before.is_none(), "a second supervisor for one pod");
        self.step(Moment::After).await;
        Ok(sandbox)
    }

    async fn connect_sandbox(&self, run_dir: &Path) -> Result<Option<FakeSandbox>, String> {
        Ok(self.lock().sandboxes.get(run_dir).cloned())
    }

    async fn sweep_sandbox(
        &self,
        run_dir: &Path,
    ) -> Result<BTreeMap<String, ContainerState>, String> {
        self.step(Moment::Before).await;
        self.lock().sandboxes.remove(run_dir);
        self.step(Moment::After).await;
        Ok(BTreeMap::new())
    }

    fn mount_tmpfs(&self, dir: &Path, _size_bytes: Option<u64>) -> Result<(), String> {
        self.lock().mounts.insert(dir.to_owned());
        Ok(())
    }

    fn mount_sub_path(&self, root: &Path, sub: &str, target: &Path) -> Result<(), String> {
        crate::volumes::sub_path::open(root, sub).map_err(|error| error.to_string())?;
        self.lock().mounts.insert(target.to_owned());
        std::fs::create_dir_all(target).map_err(|error| error.to_string())
    }

    fn unmount_sub_paths(&self, place: &Path) -> Result<(), String> {
        self.lock().mounts.retain(|at| !at.starts_with(place));
        Ok(())
    }

    fn mount_huge_pages(&self, dir: &Path, _page_bytes: u64) -> Result<(), String> {
        self.lock().mounts.insert(dir.to_owned());
        Ok(())
    }

    fn unmount_below(&self, dir: &Path) -> Result<(), String> {
        self.lock().mounts.retain(|at| !at.starts_with(dir));
        Ok(())
    }
}

impl PodSandbox for FakeSandbox {
    async fn run(&self, spec: &ContainerSpec) -> Result<(), String> {
        self.check()?;
        self.machine.step(Moment::Before).await;
        tokio::time::sleep(Duration::from_millis(40)).await;
        if let Some(error) = self.program_of(&spec.id).create_error {
            return Err(error);
        }
        let name = name_of(&spec.id);
        let twice = self.live().iter().any(|id| name_of(id) == name);
        assert!(!twice, "two live attempts of {name}");
        let known = self
            .lock()
            .containers
            .insert(spec.id.clone(), ContainerState::Created);
        assert!(known.is_none(), "{} was made before", spec.id);
        self.machine.lock().created.push(spec.id.clone());
        self.begin(&spec.id);
        self.machine.step(Moment::After).await;
        Ok(())
    }

    async fn start_container(&self, id: &str) -> Result<(), String> {
        self.check()?;
        self.machine.step(Moment::Before).await;
        if !self.lock().containers.contains_key(id) {
            return Err("there is no such container".to_owned());
        }
        self.begin(id);
        self.machine.step(Moment::After).await;
        Ok(())
    }

    async fn kill(&self, id: &str, signal: i32) -> Result<(), String> {
        self.check()?;
        self.machine.step(Moment::Before).await;
        self.machine.lock().signals.push((id.to_owned(), signal));
        if signal == 9 || !self.program_of(id).ignores_signals {
            self.end(id, 128 + signal, Some(signal));
        }
        self.machine.step(Moment::After).await;
        Ok(())
    }

    async fn set_resources(&self, id: Option<&str>, resources: &Resources) -> Result<(), String> {
        self.check()?;
        let whose = id.unwrap_or_default().to_owned();
        self.machine.lock().resized.push((whose, *resources));
        Ok(())
    }

    async fn delete(&self, id: &str) -> Result<(), String> {
        self.check()?;
        self.machine.step(Moment::Before).await;
        self.lock().containers.remove(id);
        self.machine.step(Moment::After).await;
        Ok(())
    }

    async fn states(&self) -> Result<BTreeMap<String, ContainerState>, String> {
        self.check()?;
        Ok(self.lock().containers.clone())
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    async fn exec(
        &self,
        id: &str,
        args: &[String],
        _timeout: Duration,
        _max_output: usize,
    ) -> Result<ExecOutcome, String> {
        self.check()?;
        let command = (id.to_owned(), args.first().cloned().unwrap_or_default());
        self.machine.lock().commands.push(command);
        self.machine.step(Moment::Before).await;
        tokio::time::sleep(self.program_of(id).exec_takes).await;
        Ok(ExecOutcome {
            exit_code: self.program_of(id).exec_code,
            timed_out: false,
            output: b"unwell".to_vec(),
        })
    }

    async fn stop(self) -> Result<(), String> {
        self.machine.step(Moment::Before).await;
        self.lock().containers.clear();
        self.machine.lock().sandboxes.remove(&self.run_dir);
        self.machine.step(Moment::After).await;
        Ok(())
    }
}

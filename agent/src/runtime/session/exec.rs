//! A command with streams of its own. It is known to the supervisor by a connection of its own: when that ends,
//! because nobody wants it any more or because the agent is gone, the command is killed.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use nix::sys::stat::Mode;
use tokio::io::AsyncReadExt;
use tokio::net::UnixListener;
use tokio::net::unix::pipe;
use tokio::sync::oneshot;

use super::{Input, Output, Source, Terminal, Wanted};
use crate::runtime::RuntimeError;
use crate::runtime::client;
use crate::supervisor::config;
use crate::supervisor::console::{self, ConsoleSocket};
use crate::supervisor::protocol::{Answer, Call, Exec};

/// What is read at once.
const PIECE: usize = 32 << 10;
const FOREVER: Duration = Duration::from_secs(1 << 30);

/// A command that runs.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) input: Option<Input>,
    pub(crate) terminal: Option<Terminal>,
    outlets: Vec<(Source, Outlet)>,
    end: oneshot::Receiver<Result<i32, RuntimeError>>,
    exit: Option<Result<i32, RuntimeError>>,
    /// What comes before that are words of runc.
    begun: bool,
    begin: oneshot::Receiver<()>,
    /// The input's pipe, until the command has opened it: what was written to one that nobody has open is lost.
    held: Option<File>,
    buffers: [Vec<u8>; 2],
    _link: Link,
    _files: Vec<Named>,
}

/// The connection by which the supervisor knows that the command is wanted.
#[derive(Debug)]
struct Link(tokio::task::JoinHandle<()>);

impl Drop for Link {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[derive(Debug)]
enum Outlet {
    Pipe(pipe::Receiver),
    Terminal(Terminal),
}

impl Outlet {
    async fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Pipe(pipe) => pipe.read(buffer).await,
            Self::Terminal(terminal) => terminal.read(buffer).await,
        }
    }

    fn try_read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Pipe(pipe) => pipe.try_read(buffer),
            Self::Terminal(terminal) => terminal.try_read(buffer),
        }
    }
}

/// A name in the directory for commands, removed with the value; who has it open keeps it.
#[derive(Debug)]
struct Named(PathBuf);

impl Named {
    fn pipe(base: &Path, extension: &str) -> Result<Self, RuntimeError> {
        let path = base.with_extension(extension);
        let mode = Mode::S_IRUSR | Mode::S_IWUSR;
        nix::unistd::mkfifo(&path, mode)
            .map_err(|error| RuntimeError::io("make pipe", &path, error.into()))?;
        Ok(Self(path))
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Runs a command in a container. What can be wrong with it is told by [`Running::exit`].
pub(crate) async fn exec(
    dir: &Path,
    id: &str,
    args: &[String],
    wanted: Wanted,
) -> Result<Running, RuntimeError> {
    let place = config::exec_dir(dir);
    std::fs::create_dir_all(&place)
        .map_err(|error| RuntimeError::io("make directory", &place, error))?;
    let name = crate::runtime::exec::next_name();
    let base = place.join(&name);
    let failed = |error| RuntimeError::io("open streams of", &base, error);
    // Also for writing (and for reading), so that no end is reached before the command has opened it.
    let opened = |named: &Named| {
        let mut options = pipe::OpenOptions::new();
        options.read_write(true).open_receiver(&named.0)
    };
    let output = Named::pipe(&base, "out")?;
    let mut files = Vec::new();
    let mut call = Exec {
        id: id.to_owned(),
        args: args.to_vec(),
        output: output.0.clone(),
        errors: None,
        input: None,
        console: None,
        size: wanted.size.filter(|_| wanted.tty),
        timeout: FOREVER,
    };
    // Open as long as the command, wanted or not: else what it writes would end it.
    let stdout = opened(&output).map_err(failed)?;
    files.push(output);
    let mut outlets = Vec::new();
    let mut input = None;
    let mut held = None;
    let mut terminal = None;
    let console = if wanted.tty {
        let socket = ConsoleSocket::named(&place, &format!("{name}.tty")).map_err(failed)?;
        call.console = Some(socket.path().to_owned());
        Some(socket)
    } else {
        outlets.push((Source::Stdout, Outlet::Pipe(stdout)));
        let errors = Named::pipe(&base, "err")?;
        outlets.push((
            Source::Stderr,
            Outlet::Pipe(opened(&errors).map_err(failed)?),
        ));
        call.errors = Some(errors.0.clone());
        files.push(errors);
        if wanted.stdin {
            let named = Named::pipe(&base, "in")?;
            let mut options = pipe::OpenOptions::new();
            let sender = options.read_write(true).open_sender(&named.0);
            input = Some(Input::Pipe(sender.map_err(failed)?));
            let both = File::options().read(true).write(true).open(&named.0);
            held = Some(both.map_err(failed)?);
            call.input = Some(named.0.clone());
            files.push(named);
        }
        None
    };
    let mut link = client::Link::open(dir)
        .await
        .map_err(failed)?
        .ok_or_else(|| RuntimeError::Gone(dir.to_owned()))?;
    link.send(1, Call::Exec(call)).await.map_err(failed)?;
    let (ended, mut end) = oneshot::channel();
    let (told, begin) = oneshot::channel();
    let (own, id) = (dir.to_owned(), id.to_owned());
    let link = Link(tokio::spawn(async move {
        // Whoever does not wait any more does not need it.
        let _ = ended.send(answer(&mut link, told, &own, &id).await);
        // The supervisor is not to see an end before who asked is gone.
        std::future::pending::<()>().await;
    }));
    let mut exit = None;
    if let Some(console) = console {
        tokio::select! {
            received = receive(&console) => {
                let opened = received.and_then(Terminal::new).map_err(failed)?;
                outlets.push((Source::Stdout, Outlet::Terminal(opened.clone())));
                if wanted.stdin {
                    input = Some(Input::Terminal(opened.clone()));
                }
                terminal = Some(opened);
            }
            // It did not come to that.
            answer = &mut end => exit = Some(answer.unwrap_or_else(|_| Err(lost(dir)))),
        }
    }
    Ok(Running {
        input,
        terminal,
        outlets,
        end,
        exit,
        begun: false,
        begin,
        held,
        buffers: [vec![0; PIECE], vec![0; PIECE]],
        _link: link,
        _files: files,
    })
}

/// The terminal that runc sends.
async fn receive(socket: &ConsoleSocket) -> io::Result<std::os::fd::OwnedFd> {
    let listener = UnixListener::from_std(socket.listener()?)?;
    let (stream, _) = listener.accept().await?;
    let mut bytes = [0; 4096];
    let (_, terminal) = stream
        .async_io(tokio::io::Interest::READABLE, || {
            console::receive(stream.as_raw_fd(), &mut bytes)
        })
        .await?;
    terminal.ok_or_else(|| io::Error::other("runc sent no terminal"))
}

async fn answer(
    link: &mut client::Link,
    told: oneshot::Sender<()>,
    dir: &Path,
    id: &str,
) -> Result<i32, RuntimeError> {
    let mut told = Some(told);
    loop {
        match link.answer(1).await {
            Ok(Some(Answer::Begun)) => {
                if let Some(told) = told.take() {
                    // Whoever does not wait any more does not need it.
                    let _ = told.send(());
                }
            }
            Ok(Some(Answer::Ended { code, .. })) => return Ok(code),
            Ok(Some(Answer::Failed(failure))) => {
                return Err(RuntimeError::from_failure(failure, dir, id));
            }
            Ok(Some(other)) => {
                let text = format!("unexpected answer {other:?}");
                return Err(RuntimeError::supervisor(dir, text));
            }
            // News of containers.
            Ok(None) => {}
            Err(_) => return Err(lost(dir)),
        }
    }
}

fn lost(dir: &Path) -> RuntimeError {
    RuntimeError::Gone(dir.to_owned())
}

impl Running {
    /// The next piece; the end is when the command has ended and all that it has written is given out. Processes
    /// that it leaves behind are not waited for. Cancel-safe.
    pub(crate) async fn output(&mut self) -> Output {
        loop {
            match &self.exit {
                Some(Ok(_)) => return self.rest(),
                Some(Err(_)) => return Output::End,
                None => {}
            }
            if !self.begun {
                tokio::select! {
                    // Told by nobody any more: then the end is known.
                    Ok(()) = &mut self.begin => {
                        self.begun = true;
                        self.held = None;
                    }
                    ended = &mut self.end => {
                        let gone = || Err(RuntimeError::Gone(PathBuf::new()));
                        self.exit = Some(ended.unwrap_or_else(|_| gone()));
                    }
                }
                continue;
            }
            let [first, second] = split(&mut self.outlets);
            let [one, two] = &mut self.buffers;
            tokio::select! {
                biased;
                (source, read) = next(first, one) => match read {
                    Ok(length @ 1..) => {
                        return Output::Bytes(source, Bytes::copy_from_slice(&one[..length]));
                    }
                    _ => self.outlets.retain(|(known, _)| *known != source),
                },
                (source, read) = next(second, two) => match read {
                    Ok(length @ 1..) => {
                        return Output::Bytes(source, Bytes::copy_from_slice(&two[..length]));
                    }
                    _ => self.outlets.retain(|(known, _)| *known != source),
                },
                ended = &mut self.end => {
                    let gone = || Err(RuntimeError::Gone(PathBuf::new()));
                    self.exit = Some(ended.unwrap_or_else(|_| gone()));
                }
            }
        }
    }

    /// What is there without waiting.
    fn rest(&mut self) -> Output {
        let [buffer, _] = &mut self.buffers;
        while let Some((source, outlet)) = self.outlets.first_mut() {
            if let Ok(length @ 1..) = outlet.try_read(buffer) {
                return Output::Bytes(*source, Bytes::copy_from_slice(&buffer[..length]));
            }
            self.outlets.remove(0);
        }
        Output::End
    }

    /// How it ended: after [`Output::End`].
    pub(crate) fn exit(&mut self) -> Result<i32, RuntimeError> {
        let gone = || Err(RuntimeError::Gone(PathBuf::new()));
        self.exit.take().unwrap_or_else(gone)
    }
}

type Place<'a> = Option<&'a mut (Source, Outlet)>;

fn split(outlets: &mut [(Source, Outlet)]) -> [Place<'_>; 2] {
    let mut outlets = outlets.iter_mut();
    [outlets.next(), outlets.next()]
}

/// Never, when there is nothing to read from.
async fn next(place: Place<'_>, buffer: &mut [u8]) -> (Source, io::Result<usize>) {
    match place {
        Some((source, outlet)) => (*source, outlet.read(buffer).await),
        None => std::future::pending().await,
    }
}

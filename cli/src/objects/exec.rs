//! `waggle exec`: a command in a container, on this terminal if there is to be one. Ends with the command's exit code.

use std::io::{IsTerminal as _, Read as _, Write};
use std::os::fd::AsFd as _;

use anyhow::{Context as _, bail};
use futures::SinkExt as _;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{AttachParams, TerminalSize};
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use super::Where;
use super::connect::connect;

#[derive(Debug, clap::Args)]
pub(crate) struct ExecArguments {
    pod: String,
    /// The pod's only one.
    #[arg(short, long)]
    container: Option<String>,
    /// Pass this program's input on.
    #[arg(short = 'i', long)]
    stdin: bool,
    /// The command gets a terminal.
    #[arg(short = 't', long)]
    tty: bool,
    /// The command and its arguments, after `--`.
    #[arg(last = true, required = true)]
    command: Vec<String>,
    #[command(flatten)]
    place: Where,
}

/// The terminal of this program, passing on every key; as it was when dropped.
struct Raw(Termios);

impl Raw {
    fn enter() -> anyhow::Result<Self> {
        let stdin = std::io::stdin();
        let before = tcgetattr(stdin.as_fd()).context("this is no terminal")?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(stdin.as_fd(), SetArg::TCSANOW, &raw)?;
        Ok(Self(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // There is no other way to say that it failed than on that terminal.
        let _ = tcsetattr(std::io::stdin().as_fd(), SetArg::TCSANOW, &self.0);
    }
}

pub(super) async fn run(arguments: &ExecArguments) -> anyhow::Result<u8> {
    let tty = arguments.tty && std::io::stdin().is_terminal();
    if arguments.tty && !tty {
        eprintln!("Unable to use a TTY - input is not a terminal or the right kind of file");
    }
    let (client, namespace) = connect(&arguments.place).await?;
    let pods: Api<Pod> = Api::namespaced(client, &namespace);
    let parameters = AttachParams {
        container: arguments.container.clone(),
        stdin: arguments.stdin,
        stdout: true,
        stderr: !tty,
        tty,
        ..AttachParams::default()
    };
    let command = arguments.command.clone();
    let mut process = pods.exec(&arguments.pod, command, &parameters).await?;
    let _raw = tty.then(Raw::enter).transpose()?;
    let ended = process.take_status().context("the end is not told")?;
    let input = process.stdin();
    let outputs = futures::future::join(
        print(process.stdout(), std::io::stdout()),
        print(process.stderr(), std::io::stderr()),
    );
    let sizes = process.terminal_size();
    let resizing = async {
        if let Some(sizes) = sizes {
            let _ = follow_size(sizes).await;
        }
        std::future::pending::<()>().await;
    };
    let typing = async {
        if let Some(input) = input {
            say(typed(), input).await;
        }
        std::future::pending::<()>().await;
    };
    let status = tokio::select! {
        (status, _) = async { tokio::join!(ended, outputs) } => status,
        () = resizing => None,
        () = typing => None,
    };
    let Some(status) = status else {
        bail!("the connection was lost");
    };
    if status.status.as_deref() == Some("Success") {
        return Ok(0);
    }
    let causes = status.details.and_then(|details| details.causes);
    let code = causes
        .iter()
        .flatten()
        .find(|cause| cause.reason.as_deref() == Some("ExitCode"))
        .and_then(|cause| cause.message.as_deref()?.parse().ok());
    match code {
        Some(code) => Ok(code),
        None => bail!("{}", status.message.unwrap_or_default()),
    }
}

/// What this program is given to read, by a thread that nobody waits for.
fn typed() -> mpsc::Receiver<Vec<u8>> {
    let (sender, pieces) = mpsc::channel(1);
    std::thread::spawn(move || {
        let mut buffer = vec![0; 16 << 10];
        while let Ok(length @ 1..) = std::io::stdin().read(&mut buffer) {
            if sender.blocking_send(buffer[..length].to_vec()).is_err() {
                return;
            }
        }
    });
    pieces
}

async fn say(mut pieces: mpsc::Receiver<Vec<u8>>, mut to: impl AsyncWrite + Unpin) {
    while let Some(piece) = pieces.recv().await {
        if to.write_all(&piece).await.is_err() {
            return;
        }
    }
    // The command sees the end of its input.
    let _ = to.shutdown().await;
}

/// Writing blocks: what comes then waits on the way.
async fn print(from: Option<impl AsyncRead + Unpin>, mut to: impl Write) {
    let Some(mut from) = from else { return };
    let mut buffer = vec![0; 16 << 10];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        if to.write_all(&buffer[..length]).is_err() || to.flush().is_err() {
            return;
        }
    }
}

nix::ioctl_read_bad!(window_size, libc::TIOCGWINSZ, libc::winsize);

fn size() -> Option<TerminalSize> {
    let mut size = libc::winsize {
        ws_row: 0,
        ws_col: 0,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: the structure is valid for the call to write to.
    unsafe { window_size(libc::STDIN_FILENO, &raw mut size) }.ok()?;
    Some(TerminalSize {
        width: size.ws_col,
        height: size.ws_row,
    })
}

async fn follow_size(
    mut sizes: futures::channel::mpsc::Sender<TerminalSize>,
) -> anyhow::Result<()> {
    let mut changes = signal(SignalKind::window_change())?;
    loop {
        if let Some(size) = size() {
            sizes.send(size).await?;
        }
        changes.recv().await;
    }
}

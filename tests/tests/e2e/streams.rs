//! Into pods: exec, attach, cp, port-forward and the proxies, with the current kubectl (WebSockets) and 1.20 (SPDY).

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use waggle_tests::{Cluster, IMAGE, Outcome, old_kubectl, wait_until};

fn both() -> [PathBuf; 2] {
    [PathBuf::from("kubectl"), old_kubectl()]
}

fn run(cluster: &Cluster, program: &Path, arguments: &[&str]) -> Outcome {
    Outcome::of(cluster.kubectl_command(program).args(arguments))
}

fn pod(cluster: &Cluster, name: &str, spec: &str, script: &str) {
    cluster.apply(&format!(
        r#"apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{app: {name}}}}}
spec:
  terminationGracePeriodSeconds: 0
  restartPolicy: Never
  containers:
  - name: main
    image: {IMAGE}
    {spec}
    command: ["sh", "-c", {script:?}]
"#
    ));
    cluster.wait_for(&["pod", name], "{.status.phase}", "Running");
}

/// Runs a shell line with its standard input and output on a terminal of 100 columns and 40 rows.
fn on_terminal(mut command: Command, line: &str) -> Outcome {
    let line = format!("stty cols 100 rows 40; {line}");
    command.args(["-qec", &line, "/dev/null"]);
    Outcome::of(&mut command)
}

fn with_input(mut command: Command, input: &[u8]) -> Outcome {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    // The program need not read all of it.
    let writer = std::thread::spawn(move || drop(stdin.write_all(&input)));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    Outcome {
        command: format!("{command:?}"),
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Runs a client on a terminal; each answer is typed when its cue was printed. Everything that was printed.
fn conversation(cluster: &Cluster, line: &str, cues: &[(&str, &str)]) -> String {
    let mut command = cluster.kubectl_command("script".as_ref());
    let line = format!("stty cols 100 rows 40; {line}");
    let mut child = command
        .args(["-qec", &line, "/dev/null"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let mut said = String::new();
    let mut some = [0; 512];
    for (cue, answer) in cues {
        let from = said.len();
        while !said[from..].contains(cue) {
            let length = stdout.read(&mut some).unwrap();
            assert!(length > 0, "no {cue:?} in {said:?}");
            said.push_str(&String::from_utf8_lossy(&some[..length]));
        }
        stdin.write_all(answer.as_bytes()).unwrap();
    }
    let _ = stdout.read_to_string(&mut said);
    child.wait().unwrap();
    said
}

#[test]
fn commands_run_in_pods() {
    let cluster = Cluster::start();
    pod(&cluster, "a", "", "sleep 1000");
    for program in both() {
        let exec = |arguments: &[&str]| run(&cluster, &program, arguments);
        assert_eq!(exec(&["exec", "a", "--", "echo", "hi"]).ok(), "hi\n");
        let mixed = exec(&[
            "exec",
            "a",
            "--",
            "sh",
            "-c",
            "echo out; echo err >&2; exit 7",
        ]);
        assert_eq!((mixed.code, mixed.stdout.as_str()), (Some(7), "out\n"));
        assert!(mixed.stderr.contains("err\n"), "{}", mixed.stderr);
        assert!(
            mixed.stderr.contains("command terminated with exit code 7"),
            "{}",
            mixed.stderr
        );
        let killed = exec(&["exec", "a", "--", "sh", "-c", "kill -9 $$"]);
        assert_eq!(killed.code, Some(137));
        let missing = exec(&["exec", "a", "--", "nonesuch"]).fails();
        assert!(
            missing.contains("executable file not found in $PATH"),
            "{missing}"
        );
        let missing = exec(&["exec", "nobody", "--", "true"]).fails();
        assert!(missing.contains("pods \"nobody\" not found"), "{missing}");
        let wrong = exec(&["exec", "a", "-c", "other", "--", "true"]).fails();
        assert!(
            wrong.contains("container other is not valid for pod a"),
            "{wrong}"
        );

        // Half-closed: the end of the input is seen, and what is written after it is read.
        let mut counting = cluster.kubectl_command(&program);
        counting.args(["exec", "-i", "a", "--", "sh", "-c", "wc -c; echo after"]);
        let large = vec![b'x'; 3 << 20];
        assert_eq!(
            with_input(counting, &large)
                .ok()
                .split_whitespace()
                .collect::<Vec<_>>(),
            ["3145728", "after"]
        );
        let bytes = exec(&["exec", "a", "--", "dd", "if=/dev/zero", "bs=1M", "count=8"]);
        assert_eq!(bytes.ok().len(), 8 << 20);

        // A terminal: its size from the beginning, one output, the exit code.
        let script = cluster.kubectl_command("script".as_ref());
        let line = format!(
            "{} exec -it a -- sh -c 'stty size; echo err >&2; exit 3'",
            program.display()
        );
        let terminal = on_terminal(script, &line);
        assert!(
            terminal.stdout.contains("40 100\r\nerr\r\n"),
            "{:?}",
            terminal.stdout
        );
        assert_eq!(terminal.code, Some(3));
    }
    // A client that goes takes its command with it.
    let mut child = cluster
        .kubectl_command("kubectl".as_ref())
        .args(["exec", "a", "--", "sh", "-c", "echo here; sleep 4242"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = [0; 5];
    child.stdout.take().unwrap().read_exact(&mut said).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    let sleeps = || {
        let processes = cluster.kubectl(&["exec", "a", "--", "ps"]).ok();
        (!processes.contains("sleep 4242")).then_some(())
    };
    wait_until("the command to be killed", Duration::from_secs(20), sleeps);
}

#[test]
fn a_command_whose_client_does_not_read_waits() {
    let cluster = Cluster::start();
    pod(&cluster, "a", "", "sleep 1000");
    for program in both() {
        let before = resident(cluster.pid());
        // It counts the pieces that it got rid of.
        let script = "n=0; while dd if=/dev/zero bs=64k count=1 2>/dev/null; do n=$((n+1)); echo $n >/tmp/n; done";
        let mut child = cluster
            .kubectl_command(&program)
            .args(["exec", "a", "--", "sh", "-c", script])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = child.stdout.take().unwrap();
        let mut some = [0; 1024];
        output.read_exact(&mut some).unwrap();
        // All pipes on the way are full when the writer has stopped.
        let mut last = String::new();
        wait_until("the command to wait", Duration::from_secs(30), || {
            let now = cluster
                .kubectl(&["exec", "a", "--", "cat", "/tmp/n"])
                .stdout;
            let same = now == last && !now.is_empty();
            last = now;
            same.then_some(())
        });
        let grown = resident(cluster.pid()).saturating_sub(before);
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(grown < 24 << 20, "{grown} bytes more");
    }
}

fn resident(pid: i32) -> u64 {
    let statm = std::fs::read_to_string(format!("/proc/{pid}/statm")).unwrap();
    let pages: u64 = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}

#[test]
fn containers_are_attached_to() {
    let cluster = Cluster::start();
    for (index, program) in both().into_iter().enumerate() {
        // Output goes to the client and to the log.
        let name = format!("open-{index}");
        let script = "while read line; do echo got $line; done; echo over";
        pod(&cluster, &name, "stdin: true\n    stdinOnce: true", script);
        let mut attach = cluster.kubectl_command(&program);
        attach.args(["attach", "-i", &name]);
        let seen = with_input(attach, b"one\ntwo\n");
        assert!(
            seen.stdout.ends_with("got one\ngot two\nover\n"),
            "{seen:?}"
        );
        let log = run(&cluster, &program, &["logs", &name]).ok();
        assert_eq!(log, "got one\ngot two\nover\n");

        // A container that stays open for the next one.
        let name = format!("again-{index}");
        pod(&cluster, &name, "stdin: true", script);
        for line in ["one\n", "two\n"] {
            let mut attach = cluster.kubectl_command(&program);
            attach.args(["attach", "-i", &name]);
            with_input(attach, line.as_bytes()).ok();
        }
        let log = || {
            let log = run(&cluster, &program, &["logs", &name]).ok();
            (log == "got one\ngot two\n").then_some(())
        };
        wait_until("both lines", Duration::from_secs(10), log);

        // One that reads nothing: the client's input is nobody's, and what comes after its end is seen.
        let name = format!("deaf-{index}");
        let script = "until [ -e /go ]; do echo tick; sleep 0.1; done; echo late";
        pod(&cluster, &name, "", script);
        let mut attach = cluster.kubectl_command(&program);
        let mut attached = attach
            .args(["attach", "-i", &name])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(attached.stdout.take().unwrap()).lines();
        let ticks = lines.by_ref().map_while(Result::ok);
        assert_eq!(ticks.filter(|line| line == "tick").take(20).count(), 20);
        run(&cluster, &program, &["exec", &name, "--", "touch", "/go"]).ok();
        assert_eq!(lines.map_while(Result::ok).last().as_deref(), Some("late"));
        assert!(attached.wait().unwrap().success());

        // From nothing to nothing, on a terminal. Clients tell the size beside what is typed, in either order.
        let name = format!("shell-{index}");
        let script = r#"read x; for i in $(seq 100); do [ "$(stty size)" = "40 100" ] && break; sleep 0.1; done; stty size; echo $x"#;
        let line = format!(
            "{} run -it --rm {name} --image={IMAGE} --restart=Never -- sh -c '{script}'",
            program.display()
        );
        let said = conversation(&cluster, &line, &[("press", "typed\n")]);
        assert!(said.contains("40 100\r\ntyped\r\n"), "{said:?}");
        assert!(said.contains("deleted"), "{said:?}");
        cluster.wait_for(&["pods", "-l", &format!("run={name}")], "{.items}", "[]");
    }
}

#[test]
fn files_are_copied_both_ways() {
    let cluster = Cluster::start();
    pod(&cluster, "a", "", "sleep 1000");
    let from = cluster.scratch().join("from");
    std::fs::create_dir_all(from.join("deep")).unwrap();
    let large: Vec<u8> = (0..5_000_000_u32)
        .map(|n| n.to_le_bytes()[n as usize % 4])
        .collect();
    std::fs::write(from.join("large"), &large).unwrap();
    std::fs::write(from.join("deep/small"), "text").unwrap();
    for (index, program) in both().into_iter().enumerate() {
        let there = format!("a:/tmp/copied-{index}");
        let back = cluster.scratch().join(format!("back-{index}"));
        run(&cluster, &program, &["cp", &from.to_string_lossy(), &there]).ok();
        run(&cluster, &program, &["cp", &there, &back.to_string_lossy()]).ok();
        assert_eq!(std::fs::read(back.join("large")).unwrap(), large);
        assert_eq!(std::fs::read(back.join("deep/small")).unwrap(), b"text");
    }
}

/// A `kubectl port-forward` that runs.
struct Forward {
    child: Child,
    port: u16,
}

impl Forward {
    fn start(cluster: &Cluster, program: &Path, target: &str, port: u16) -> Self {
        let child = cluster
            .kubectl_command(program)
            .args(["port-forward", target, &format!(":{port}")])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut this = Self { child, port: 0 };
        let mut line = String::new();
        let output = this.child.stdout.as_mut().unwrap();
        while !line.ends_with('\n') {
            let mut byte = [0];
            if output.read(&mut byte).unwrap() == 0 {
                let mut why = String::new();
                let _ = this.child.stderr.take().unwrap().read_to_string(&mut why);
                panic!("{why}");
            }
            line.push(char::from(byte[0]));
        }
        let port = line.split("127.0.0.1:").nth(1).unwrap().split(' ').next();
        this.port = port.unwrap().parse().unwrap();
        this
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn ports_are_forwarded() {
    let cluster = Cluster::start();
    let page = "mkdir -p /tmp/w; echo page > /tmp/w/index.html; dd if=/dev/zero of=/tmp/w/large bs=1M count=4; \
                httpd -f -p 127.0.0.1:8080 -h /tmp/w";
    pod(&cluster, "web", "ports: [{containerPort: 8080}]", page);
    cluster.apply(
        "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}\n",
    );
    cluster.wait_for(
        &["endpoints", "web"],
        "{.subsets[0].addresses[0].targetRef.name}",
        "web",
    );
    for program in both() {
        for (target, port) in [("pod/web", 8080), ("service/web", 80)] {
            let forward = Forward::start(&cluster, &program, target, port);
            // What is not read at once would hold up kubectl's one connection.
            let fetch = |path: &str, arguments: &[&str]| {
                let url = format!("http://127.0.0.1:{}/{path}", forward.port);
                let mut command = cluster.netns.command("curl");
                command
                    .args(["-sS", "--max-time", "30", &url])
                    .args(arguments);
                command.stdout(Stdio::piped()).spawn().unwrap()
            };
            // Many at once, each whole.
            let size = ["-o", "/dev/null", "-w", "%{size_download}"];
            let all: Vec<Child> = (0..20).map(|_| fetch("large", &size)).collect();
            for child in all {
                assert_eq!(child.wait_with_output().unwrap().stdout, b"4194304");
            }
            let page = fetch("index.html", &[]).wait_with_output().unwrap();
            assert_eq!(page.stdout, b"page\n");
        }
        // Nobody listens there.
        let mut forward = Forward::start(&cluster, &program, "pod/web", 9);
        let url = format!("http://127.0.0.1:{}/", forward.port);
        let _ = Outcome::of(
            cluster
                .netns
                .command("curl")
                .args(["-sS", "-m", "20", &url]),
        );
        let mut stderr = forward.child.stderr.take().unwrap();
        let mut said = String::new();
        let mut some = [0; 512];
        while !said.contains("connection refused") {
            let length = stderr.read(&mut some).unwrap();
            assert!(length > 0, "{said}");
            said.push_str(&String::from_utf8_lossy(&some[..length]));
        }
        assert!(
            said.contains("error forwarding port 9 to pod web, uid "),
            "{said}"
        );
    }
}

#[test]
fn requests_are_proxied() {
    let cluster = Cluster::start();
    let page = "mkdir -p /tmp/w/deep/er; echo page > /tmp/w/index.html; echo deeper > /tmp/w/deep/er/index.html; \
                httpd -f -p 8080 -h /tmp/w";
    pod(&cluster, "web", "ports: [{containerPort: 8080}]", page);
    cluster.apply(
        "apiVersion: v1\nkind: Service\nmetadata: {name: web}\n\
         spec: {selector: {app: web}, ports: [{name: http, port: 80, targetPort: 8080}]}\n",
    );
    cluster.wait_for(
        &["endpoints", "web"],
        "{.subsets[0].addresses[0].targetRef.name}",
        "web",
    );
    let raw = |path: &str| cluster.kubectl(&["get", "--raw", path]);
    let here = "/api/v1/namespaces/default";
    // The server may be a moment later than its pod.
    wait_until("the page", Duration::from_secs(10), || {
        (raw(&format!("{here}/pods/web/proxy/")).stdout == "page\n").then_some(())
    });
    for place in [
        "pods/web",
        "pods/http:web:8080",
        "services/web:http",
        "services/web:80",
    ] {
        assert_eq!(
            raw(&format!("{here}/{place}/proxy/")).ok(),
            "page\n",
            "{place}"
        );
        let deeper = raw(&format!("{here}/{place}/proxy/deep/er/?x=1")).ok();
        assert_eq!(deeper, "deeper\n", "{place}");
    }
    let nothing = raw(&format!("{here}/pods/web:9/proxy/")).fails();
    assert!(
        nothing.contains("error trying to reach service: dial tcp")
            && nothing.contains("connection refused"),
        "{nothing}"
    );
    let unknown = raw(&format!("{here}/services/web:81/proxy/")).fails();
    assert!(
        unknown.contains("no service port 81 found for service \"web\""),
        "{unknown}"
    );
    assert_eq!(raw("/api/v1/nodes/node-1/proxy/healthz").ok(), "ok");
    let pods: serde_json::Value =
        serde_json::from_str(&raw("/api/v1/nodes/node-1/proxy/pods").ok()).unwrap();
    assert_eq!(pods["items"][0]["metadata"]["name"], "web");
    assert!(
        raw("/api/v1/nodes/node-1/proxy/metrics")
            .ok()
            .contains("waggle_agent_")
    );
    // A kubelet's own paths into its pods.
    let node = "/api/v1/nodes/node-1/proxy";
    let run = |path: &str| cluster.kubectl(&["create", "--raw", path, "-f", "/dev/null"]);
    assert_eq!(
        run(&format!("{node}/run/default/web/main?cmd=echo+a+b")).ok(),
        "a b\n"
    );
    let failed = run(&format!("{node}/run/default/web/main?cmd=false")).fails();
    assert!(failed.contains("exited with 1"), "{failed}");
    assert_eq!(
        raw(&format!("{node}/containerLogs/default/web/main")).ok(),
        ""
    );
    let none = raw(&format!("{node}/containerLogs/default/none/main")).fails();
    assert!(none.contains("pod \"none\" does not exist"), "{none}");

    // `kubectl proxy` shows redirections and upgrades as they are.
    let mut proxy = cluster
        .kubectl_command("kubectl".as_ref())
        .args(["proxy", "--port=0"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = [0; 40];
    let length = proxy.stdout.as_mut().unwrap().read(&mut line).unwrap();
    let text = String::from_utf8_lossy(&line[..length]).into_owned();
    let port: u16 = text.trim().rsplit(':').next().unwrap().parse().unwrap();
    let curl = |path: &str| {
        let url = format!("http://127.0.0.1:{port}{here}/pods/web/proxy{path}");
        let mut command = cluster.netns.command("curl");
        Outcome::of(command.args(["-sS", "-m", "20", "-D", "-", &url])).ok()
    };
    let moved = curl("");
    assert!(
        moved.contains(&format!("Location: {here}/pods/web/proxy/")),
        "{moved}"
    );
    let directory = curl("/deep/er");
    assert!(
        directory.contains(&format!("{here}/pods/web/proxy/deep/er/")),
        "{directory}"
    );
    proxy.kill().unwrap();
    proxy.wait().unwrap();
}

#[test]
fn the_built_in_client_does_as_much() {
    let cluster = Cluster::start();
    let waggle = |arguments: &[&str]| {
        Outcome::of(
            cluster
                .kubectl_command(&waggle_tests::waggle())
                .args(arguments),
        )
    };
    let manifest = cluster.scratch().join("pod.yaml");
    std::fs::write(
        &manifest,
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: a}}\nspec:\n  terminationGracePeriodSeconds: 0\n  containers:\n  \
             - {{name: main, image: '{IMAGE}', command: [sh, -c, 'echo started; httpd -f -p 127.0.0.1:8080 -h /etc']}}\n"
        ),
    )
    .unwrap();
    let file = manifest.to_string_lossy().into_owned();
    assert_eq!(
        waggle(&["apply", "-f", &file]).ok(),
        "pod/a serverside-applied\n"
    );
    cluster.wait_for(&["pod", "a"], "{.status.phase}", "Running");
    let rows = waggle(&["get", "po", "a"]).ok();
    assert!(
        rows.starts_with("NAME  READY") && rows.contains("Running"),
        "{rows}"
    );
    assert_eq!(waggle(&["get", "pods", "-o", "name"]).ok(), "pod/a\n");
    assert_eq!(waggle(&["logs", "a"]).ok(), "started\n");
    let failed = waggle(&["exec", "a", "--", "sh", "-c", "echo hi; exit 5"]);
    assert_eq!((failed.code, failed.stdout.as_str()), (Some(5), "hi\n"));
    let mut counting = cluster.kubectl_command(&waggle_tests::waggle());
    counting.args(["exec", "-i", "a", "--", "wc", "-c"]);
    assert_eq!(with_input(counting, &[7; 100_000]).ok().trim(), "100000");
    let mut forward = cluster
        .kubectl_command(&waggle_tests::waggle())
        .args(["port-forward", "a", ":8080"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = [0; 100];
    let length = forward.stdout.as_mut().unwrap().read(&mut line).unwrap();
    let said = String::from_utf8_lossy(&line[..length]).into_owned();
    let port = said
        .split("127.0.0.1:")
        .nth(1)
        .unwrap()
        .split(' ')
        .next()
        .unwrap();
    let url = format!("http://127.0.0.1:{port}/group");
    let group = Outcome::of(
        cluster
            .netns
            .command("curl")
            .args(["-sS", "-m", "20", &url]),
    )
    .ok();
    assert!(group.contains("root:x:0"), "{group}");
    forward.kill().unwrap();
    forward.wait().unwrap();
    assert_eq!(waggle(&["delete", "pod", "a"]).ok(), "pod \"a\" deleted\n");
    assert!(waggle(&["get", "pod", "a"]).fails().contains("not found"));
}

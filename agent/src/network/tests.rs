//! Pod networks in the kernel, in namespaces of each test's own.
#![allow(clippy::unwrap_used)]

use std::future::Future;
use std::path::Path;

use super::*;

/// Runs a test in namespaces of its own.
fn isolated<F: Future<Output = ()>>(test: impl FnOnce(PathBuf) -> F + Send + 'static) {
    crate::tests::isolated(move |directory| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(test(directory.to_owned()));
    });
}

async fn open(directory: &Path, ranges: &[&str]) -> Networks {
    let ranges = ranges.iter().map(|range| range.parse().unwrap()).collect();
    Networks::open(directory, ranges, Some(1450)).await.unwrap()
}

fn output(program: &str, arguments: &[&str]) -> String {
    let output = std::process::Command::new(program)
        .args(arguments)
        .output()
        .unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn host_links() -> usize {
    output("ip", &["-o", "link"])
        .lines()
        .filter(|line| line.contains(": wg"))
        .count()
}

#[test]
fn a_pod_has_what_it_needs() {
    isolated(|directory| async move {
        let networks = open(&directory, &["10.77.0.0/24", "fd00:77::/64"]).await;
        let network = networks.attach("pod-1").await.unwrap();
        assert_eq!(
            network.addresses,
            [
                "10.77.0.2".parse::<IpAddr>().unwrap(),
                "fd00:77::2".parse().unwrap()
            ]
        );
        let inside = |arguments: &str| {
            let net = format!("--net={}", network.netns.display());
            let mut all = vec![net.as_str(), "ip"];
            all.extend(arguments.split(' '));
            output("nsenter", &all)
        };
        let addresses = inside("-o addr");
        for part in ["127.0.0.1/8", "10.77.0.2/32", "fd00:77::2/128"] {
            assert!(addresses.contains(part), "{part} is not in\n{addresses}");
        }
        assert!(!addresses.contains("tentative"), "{addresses}");
        let links = inside("-o link");
        assert!(
            links.contains("eth0") && links.contains("mtu 1450"),
            "{links}"
        );
        assert!(inside("route").contains("default via 169.254.1.1 dev eth0"));
        assert!(inside("-6 route").contains("default via fe80::1 dev eth0"));
        assert!(inside("neigh").contains("169.254.1.1 dev eth0 lladdr"));
        assert!(output("ip", &["route"]).contains("10.77.0.2 dev wg"));
        assert!(output("ip", &["-6", "route"]).contains("fd00:77::2 dev wg"));
        // Both ends send, and not only will some time: a list, unlike a question for one, does not make it so.
        let host = output("ip", &["-o", "link"]);
        let host = host
            .lines()
            .find(|line| line.contains(&link_name("pod-1")))
            .unwrap();
        assert!(
            host.contains("mtu 1450") && host.contains("state UP"),
            "{host}"
        );
        assert!(
            links
                .lines()
                .any(|line| line.contains("eth0") && !line.contains("DOWN")),
            "{links}"
        );
        let name = link_name("pod-1");
        let read = |file: String| std::fs::read_to_string(file).unwrap();
        for family in ["ipv4", "ipv6"] {
            let forwarding = format!("/proc/sys/net/{family}/conf/{name}/forwarding");
            assert_eq!(read(forwarding), "1\n", "{family}");
        }
        // No link-local addresses, which the kernel would make up.
        let mode = format!("/proc/sys/net/ipv6/conf/{name}/addr_gen_mode");
        assert_eq!(read(mode), "1\n");
        assert!(!addresses.contains("fe80:"), "{addresses}");
        let host = output("ip", &["-6", "addr", "show", "dev", &name]);
        assert!(!host.contains("fe80:"), "{host}");
        networks.detach("pod-1").await.unwrap();
    });
}

#[test]
fn without_v6_the_pair_has_none() {
    isolated(|directory| async move {
        let networks = open(&directory, &["10.77.0.0/24"]).await;
        let network = networks.attach("pod").await.unwrap();
        let net = format!("--net={}", network.netns.display());
        let ours = format!("/proc/sys/net/ipv6/conf/{}/disable_ipv6", link_name("pod"));
        assert_eq!(output("cat", &[&ours]), "1\n");
        let theirs = "/proc/sys/net/ipv6/conf/eth0/disable_ipv6";
        assert_eq!(output("nsenter", &[&net, "cat", theirs]), "1\n");
        networks.detach("pod").await.unwrap();
    });
}

/// Together they would take the processor from each other while they wait for the kernel.
#[test]
#[allow(
    clippy::await_holding_lock,
    reason = "what waits for it is on a thread of its own"
)]
fn networks_are_made_one_after_the_other() {
    isolated(|directory| async move {
        let networks = open(&directory, &["10.77.0.0/24"]).await;
        let inner = Arc::clone(&networks.inner);
        let turn = inner.turn.lock().unwrap();
        let attach = networks.attach("pod");
        tokio::pin!(attach);
        let soon = std::time::Duration::from_millis(50);
        assert!(tokio::time::timeout(soon, &mut attach).await.is_err());
        assert_eq!(host_links(), 0);
        drop(turn);
        attach.await.unwrap();
        assert_eq!(host_links(), 1);
        networks.detach("pod").await.unwrap();
    });
}

fn link_name(uid: &str) -> String {
    Names::of(uid).host
}

#[test]
fn attaching_again_gives_the_same_and_detaching_again_does_nothing() {
    isolated(|directory| async move {
        let networks = open(&directory, &["10.77.0.0/24"]).await;
        let network = networks.attach("pod").await.unwrap();
        assert_eq!(networks.attach("pod").await.unwrap(), network);
        // Another process finds it as well.
        let again = open(&directory, &["10.77.0.0/24"]).await;
        assert_eq!(again.attach("pod").await.unwrap(), network);
        assert_eq!(again.list().await.unwrap(), ["pod"]);
        assert_eq!(host_links(), 1);
        networks.detach("pod").await.unwrap();
        networks.detach("pod").await.unwrap();
        assert_eq!(networks.list().await.unwrap(), Vec::<String>::new());
        assert_eq!(host_links(), 0);
        assert!(!network.netns.exists());
    });
}

/// After kill -9 at any step, the pod either has its network or gets it, and nothing is left of the try.
#[test]
fn a_crash_at_any_step_is_made_good() {
    isolated(|directory| async move {
        let ranges = ["10.77.0.0/29"];
        for step in 0..4 {
            let networks = open(&directory, &ranges).await;
            let uid = format!("pod{step}");
            let given = networks.inner.addresses.allocate(&uid).unwrap();
            if step > 0 {
                let netns = networks.netns(&uid);
                let made = namespace::on_own_thread(move || namespace::create(&netns, None));
                made.await.unwrap();
            }
            if step > 1 {
                let (netns, uid, given) = (networks.netns(&uid), uid.clone(), given.clone());
                let made =
                    namespace::on_own_thread(move || link::create(&uid, &netns, &given, None));
                made.await.unwrap();
            }
            if step > 2 {
                std::fs::write(networks.record(&uid), b"{\"addr").unwrap();
            }
            let networks = open(&directory, &ranges).await;
            assert_eq!(networks.list().await.unwrap(), std::slice::from_ref(&uid));
            let network = networks.attach(&uid).await.unwrap();
            assert_eq!(host_links(), 1, "step {step}");
            assert_ne!(
                network.addresses, given,
                "the address of the failed try comes back last"
            );
            networks.detach(&uid).await.unwrap();
            assert!(networks.list().await.unwrap().is_empty(), "step {step}");
            assert_eq!(host_links(), 0, "step {step}");
        }
    });
}

#[test]
fn a_pod_whose_veth_vanished_gets_a_new_network() {
    isolated(|directory| async move {
        let networks = open(&directory, &["10.77.0.0/24"]).await;
        let first = networks.attach("pod").await.unwrap();
        output("ip", &["link", "del", &link_name("pod")]);
        let second = networks.attach("pod").await.unwrap();
        assert_ne!(first.interface.host_ifindex, second.interface.host_ifindex);
        networks.detach("pod").await.unwrap();
    });
}

#[test]
fn a_failure_leaves_nothing() {
    isolated(|directory| async move {
        let networks = open(&directory, &["10.77.0.0/24"]).await;
        // The name is taken by something that is not a veth pair of ours.
        let name = link_name("pod");
        output("ip", &["link", "add", &name, "type", "bridge"]);
        output("ip", &["link", "set", &name, "alias", "foreign"]);
        let exhausted = open(&directory.join("small"), &["10.78.0.0/31"]).await;
        assert!(matches!(
            exhausted.attach("pod").await,
            Err(NetworkError::Exhausted(_))
        ));
        assert!(exhausted.list().await.unwrap().is_empty());
        for uid in ["", "a/b", "..", "x y"] {
            assert!(
                matches!(networks.attach(uid).await, Err(NetworkError::Uid(_))),
                "{uid:?}"
            );
        }
        let _ = networks.attach("pod").await;
        networks.detach("pod").await.unwrap();
        assert!(networks.list().await.unwrap().is_empty());
    });
}

#[test]
fn many_pods_at_once_get_different_addresses() {
    isolated(|directory| async move {
        let networks = open(&directory, &["10.77.0.0/24"]).await;
        let uids: Vec<String> = (0..20).map(|pod| format!("pod{pod}")).collect();
        let attached = futures::future::join_all(uids.iter().map(|uid| networks.attach(uid))).await;
        let addresses: BTreeSet<IpAddr> = attached
            .into_iter()
            .map(|network| network.unwrap().addresses[0])
            .collect();
        assert_eq!(addresses.len(), 20);
        for uid in &uids {
            networks.detach(uid).await.unwrap();
        }
        assert_eq!(host_links(), 0);
    });
}

//! Loading again without a gap, and leaving nothing behind.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};

use super::lab::{Feed, run_program, service};
use super::services::{ask, serve_once};
use super::*;

fn echo(mut stream: TcpStream) {
    let mut byte = [0];
    while stream.read_exact(&mut byte).is_ok() {
        stream.write_all(&byte).unwrap();
    }
}

/// Ids of the programs at a pod's interface, one for each direction.
fn at_pod(pod: &crate::network::PodNetwork) -> [String; 2] {
    let name = attach::interface_name(pod.interface.host_ifindex).unwrap();
    ["ingress", "egress"].map(|direction| {
        let output = std::process::Command::new("tc")
            .args(["filter", "show", "dev", &name, direction])
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(text.matches("direct-action").count(), 1, "{text}");
        let (_, rest) = text.split_once(" id ").unwrap();
        rest.split_whitespace().next().unwrap().to_owned()
    })
}

#[test]
fn a_second_load_keeps_connections_services_and_pods() {
    lab(|lab| async move {
        let plane = lab.load().await;
        let mut feed = Feed::new(&plane);
        let (client, server) = (
            lab.pod(&plane, "client").await,
            lab.pod(&plane, "server").await,
        );
        let listener = lab.in_pod(&server, || TcpListener::bind("0.0.0.0:8080").unwrap());
        let outside = lab.outside(|| TcpListener::bind("203.0.113.9:80").unwrap());
        let backends = [(server.addresses[0], 8080)];
        feed.apply(true, service("web", "10.96.0.80", 80, &backends))
            .await;
        let at: SocketAddr = "10.96.0.80:80".parse().unwrap();
        let far: SocketAddr = "203.0.113.9:80".parse().unwrap();
        let mut streams = lab.in_pod(&client, move || {
            [at, far].map(|to| TcpStream::connect(to).unwrap())
        });
        let served = [listener.accept().unwrap().0, outside.accept().unwrap().0]
            .map(|stream| std::thread::spawn(move || echo(stream)));

        // The process ends, whatever it was doing, and another one starts.
        drop(feed);
        drop(plane);
        let earlier = at_pod(&client);
        let mut talk = |what: &str| {
            for stream in &mut streams {
                stream
                    .set_read_timeout(Some(Duration::from_secs(5)))
                    .unwrap();
                stream.write_all(b"x").unwrap();
                stream
                    .read_exact(&mut [0])
                    .unwrap_or_else(|error| panic!("{what}: {error}"));
            }
        };
        talk("without agent");
        let before = lab.in_pod(&client, move || TcpStream::connect(at).unwrap());
        assert_eq!(
            before.peer_addr().unwrap(),
            at,
            "services work without agent"
        );
        let plane = lab.load().await;
        talk("after the second load");
        let programs = at_pod(&client);
        assert!(
            programs.iter().all(|id| !earlier.contains(id)),
            "the earlier load's programs are there: {earlier:?} {programs:?}"
        );
        assert_eq!(before.peer_addr().unwrap(), at, "socket state is kept");
        assert_eq!(
            plane.attachments().len(),
            9 + 2 + 4,
            "{:?}",
            plane.attachments()
        );
        drop(listener.accept().unwrap());

        // No batch yet: the service is there. A full batch without it, and it is gone.
        let listening = std::thread::spawn(move || serve_once(&listener, "again"));
        let (peer, text) = lab.in_pod(&client, move || ask(at).unwrap());
        assert_eq!((peer, text.as_str()), (at, "again"));
        listening.join().unwrap();
        let mut feed = Feed::new(&plane);
        feed.apply(true, Vec::new()).await;
        lab.in_pod(&client, move || ask(at).unwrap_err());
        talk("after its service is gone");

        drop(streams);
        for thread in served {
            thread.join().unwrap();
        }
        plane.unload().await.unwrap();
    });
}

#[test]
fn unloading_leaves_nothing() {
    lab(|lab| async move {
        // Others on the machine mount and unmount as well.
        let directory = lab.directory.display().to_string();
        let mounts = || {
            let all = std::fs::read_to_string("/proc/thread-self/mounts").unwrap();
            let ours = all.lines().filter(|line| line.contains(&directory));
            ours.map(str::to_owned).collect::<Vec<_>>()
        };
        let before = mounts();
        let plane = lab.load().await;
        let pod = lab.pod(&plane, "pod").await;
        let pins = std::fs::read_dir(lab.directory.join("bpf/links")).unwrap();
        assert_eq!(pins.count(), 9 + 2);
        plane.remove_pod(&pod.interface).await.unwrap();
        plane.remove_pod(&pod.interface).await.unwrap();
        lab.networks.detach("pod").await.unwrap();
        plane.unload().await.unwrap();
        assert!(!lab.directory.join("bpf").exists());
        assert_eq!(mounts(), before);
        let addresses = std::process::Command::new("ip")
            .args(["-o", "addr", "show", "dev", "lo"])
            .output()
            .unwrap();
        assert!(!String::from_utf8_lossy(&addresses.stdout).contains("169.254"));
        let links = std::process::Command::new("ip")
            .args(["-o", "link"])
            .output()
            .unwrap();
        let links = String::from_utf8_lossy(&links.stdout).into_owned();
        assert!(!links.contains("wg"), "{links}");
        let attached = std::process::Command::new("bpftool")
            .args(["cgroup", "show", lab.cgroup.to_str().unwrap()])
            .output()
            .unwrap();
        assert_eq!(String::from_utf8_lossy(&attached.stdout).trim(), "");
    });
}

#[test]
fn maps_of_a_foreign_program_are_replaced() {
    lab(|lab| async move {
        let directory = lab.directory.join("bpf");
        bpffs::ensure(&directory).unwrap();
        let maps = objects::map_directory(&directory);
        std::fs::create_dir_all(&maps).unwrap();
        run_program(&format!(
            "bpftool map create {}/SERVICES type hash key 4 value 4 entries 1 name foreign",
            maps.display()
        ));
        let plane = lab.load().await;
        plane.unload().await.unwrap();
    });
}

#[test]
fn bad_configurations_are_refused_by_name() {
    lab(|lab| async move {
        let refused = async |change: &dyn Fn(&mut DataPlaneConfig)| {
            let mut config = lab.config();
            change(&mut config);
            DataPlane::load(config).await.unwrap_err()
        };
        let error = refused(&|config| config.uplink = Some("nosuch0".to_owned())).await;
        assert_eq!(error.to_string(), "no interface named nosuch0");
        let error = refused(&|config| config.uplink = Some("lo".to_owned())).await;
        assert!(matches!(error, DataPlaneError::NotEthernet(_)), "{error}");
        let error = refused(&|config| config.cgroup = "/proc".into()).await;
        assert!(matches!(error, DataPlaneError::NotCgroup2(_)), "{error}");
        let error =
            refused(&|config| config.pod_cidrs = vec!["10.96.5.0/24".parse().unwrap()]).await;
        assert!(matches!(error, DataPlaneError::Overlap(..)), "{error}");
        let error = refused(&|config| {
            config.pod_cidrs = (0..9)
                .map(|n| format!("10.{n}.0.0/16").parse().unwrap())
                .collect();
        })
        .await;
        assert!(
            matches!(error, DataPlaneError::TooManyRanges { .. }),
            "{error}"
        );
        assert!(!lab.directory.join("bpf").exists(), "nothing was begun");
    });
}

#[test]
fn everything_is_on_metrics() {
    lab(|lab| async move {
        let plane = lab.load().await;
        let mut registry = prometheus_client::registry::Registry::default();
        plane.register(&mut registry);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for line in [
            "waggle_dataplane_drops_total{reason=\"spoofed_address\"} 0",
            "waggle_dataplane_map_entries{map=\"services\"} 2",
            "waggle_dataplane_map_size{map=\"slots\"} 262144",
            "waggle_dataplane_applied_revision 0",
            "waggle_dataplane_program_runs_total{program=\"connect4\"}",
            "waggle_dataplane_forwarded_packets_total{to=\"uplink\"} 0",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
        plane.unload().await.unwrap();
    });
}

/// A program that is near the verifier's limit of a million instructions here is over it on some kernel
/// (Linux 6.1 looks at three times as many as 6.18 in the largest). Needs nothing but a kernel, so that it can be run on others in a virtual machine.
#[test]
fn every_program_is_far_from_the_verifiers_limit() {
    let directory = tempfile::tempdir().unwrap();
    let pins = directory.path().join("bpf");
    bpffs::ensure(&pins).unwrap();
    let loaded = Objects::load(&pins);
    let verified = loaded.as_ref().map(|objects| {
        let count = |info: aya::programs::ProgramInfo| info.verified_instruction_count();
        let infos = objects.program_infos();
        infos
            .map(|(name, info)| (name.to_owned(), count(info).unwrap()))
            .collect::<Vec<_>>()
    });
    bpffs::clear(&pins).unwrap();
    let verified = verified.unwrap_or_else(|error| panic!("{}", super::lab::chain(error)));
    eprintln!("{verified:?}");
    assert_eq!(verified.len(), 16);
    assert!(
        verified.iter().all(|(_, count)| *count < 200_000),
        "{verified:?}"
    );
}

/// As on kernels before 6.6: the same, by clsact filters.
#[test]
fn without_tcx_filters_do_the_same() {
    lab(|lab| async move {
        let plane = lab.load().await;
        let interface = |index| attach::Interface {
            index,
            name: attach::interface_name(index).unwrap(),
        };
        let pods = [lab.pod(&plane, "one").await, lab.pod(&plane, "two").await];
        let uplink = plane.inner.state().reached.uplink.clone().unwrap();
        {
            let mut guard = plane.inner.state();
            let state = &mut *guard;
            state.attachments.remove_all();
            let mut filters = Attachments::open(&lab.config().pin_dir)
                .unwrap()
                .without_tcx();
            // Twice: the second time as after a restart.
            for _ in 0..2 {
                for pod in &pods {
                    let host = interface(pod.interface.host_ifindex);
                    filters.pod(&mut state.objects, &host).unwrap();
                }
                let links = std::iter::once(&uplink);
                filters
                    .links(&mut state.objects, links, Some(&uplink))
                    .unwrap();
            }
            assert_eq!(filters.list().len(), 6);
            assert!(filters.list()[0].hook.starts_with("tc ingress wg"));
            state.attachments = filters;
        }
        let show = |direction: &str| {
            let output = std::process::Command::new("tc")
                .args(["filter", "show", "dev", &uplink.name, direction])
                .output()
                .unwrap();
            String::from_utf8_lossy(&output.stdout).into_owned()
        };
        assert_eq!(
            show("ingress").matches("direct-action").count(),
            1,
            "{}",
            show("ingress")
        );
        assert_eq!(
            show("egress").matches("direct-action").count(),
            1,
            "{}",
            show("egress")
        );
        let address = pods[1].addresses[0];
        let listener = lab.in_pod(&pods[1], || TcpListener::bind("0.0.0.0:8080").unwrap());
        let outside = lab.outside(|| TcpListener::bind("203.0.113.9:80").unwrap());
        let served = std::thread::spawn(move || {
            serve_once(&listener, "pod");
            serve_once(&outside, "outside");
        });
        let text = lab.in_pod(&pods[0], move || {
            let near = ask(super::lab::socket(address, 8080)).unwrap().1;
            let far = ask("203.0.113.9:80".parse().unwrap()).unwrap().1;
            near + &far
        });
        assert_eq!(text, "podoutside");
        served.join().unwrap();
        plane.unload().await.unwrap();
        assert!(
            !show("ingress").contains("uplink_ingress"),
            "{}",
            show("ingress")
        );
        assert!(
            !show("egress").contains("uplink_egress"),
            "{}",
            show("egress")
        );
    });
}

#[test]
fn a_load_with_another_configuration_moves_what_is_attached() {
    lab(|lab| async move {
        let plane = lab.load().await;
        let (kept, gone) = (lab.pod(&plane, "kept").await, lab.pod(&plane, "gone").await);
        drop(plane);
        // While no agent is there, a pod's network goes, and the uplink is another interface now.
        lab.networks.detach("gone").await.unwrap();
        run_program("ip link add up1 type veth peer name far1");
        let other = lab.cgroup.join("other");
        std::fs::create_dir(&other).unwrap();
        std::fs::write(other.join("cgroup.type"), "threaded").unwrap();
        let config = DataPlaneConfig {
            uplink: Some("up1".to_owned()),
            cgroup: other.clone(),
            ..lab.config()
        };
        let plane = DataPlane::load(config).await.unwrap();
        let attached = |cgroup: &std::path::Path| {
            let output = std::process::Command::new("bpftool")
                .args(["cgroup", "show", cgroup.to_str().unwrap()])
                .output()
                .unwrap();
            String::from_utf8_lossy(&output.stdout)
                .matches("connect4")
                .count()
        };
        assert_eq!((attached(&lab.cgroup), attached(&other)), (0, 1));
        let pins = std::fs::read_dir(lab.directory.join("bpf/links")).unwrap();
        // The uplink of before still leads somewhere.
        assert_eq!(pins.count(), 9 + 2 * 2);
        at_pod(&kept);
        assert_eq!(
            plane.attachments().len(),
            9 + 2 * 2 + 2,
            "the pod's that is gone are gone: {:?}",
            plane.attachments()
        );
        {
            let state = plane.inner.state();
            let known =
                |address: IpAddr| state.objects.pods.get(&Address::from(address).bytes(), 0);
            assert!(known(kept.addresses[0]).is_ok());
            assert!(known(gone.addresses[0]).is_err());
            assert_eq!(state.objects.sources.keys().count(), 1);
        }
        plane.unload().await.unwrap();
        std::fs::remove_dir(&other).unwrap();
    });
}

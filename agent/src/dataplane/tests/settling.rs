//! Programs of pods are filters first and links when there is time, without a packet that no program sees.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};

use super::lab::socket;
use super::*;
use crate::network::PodNetwork;

/// The filters at a pod's interface.
fn filters(pod: &PodNetwork) -> usize {
    let name = attach::interface_name(pod.interface.host_ifindex).unwrap();
    let count = |direction: &str| {
        let output = std::process::Command::new("tc")
            .args(["filter", "show", "dev", &name, direction])
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.matches("direct-action").count()
    };
    count("ingress") + count("egress")
}

fn links(lab: &super::lab::Lab) -> usize {
    let pins = std::fs::read_dir(lab.directory.join("bpf/links")).unwrap();
    let names = pins.flatten().map(|pin| pin.file_name());
    names
        .filter(|name| name.to_string_lossy().starts_with("pod_"))
        .count()
}

/// Without what a new interface sends to say which groups it is in.
fn dropped(plane: &DataPlane) -> Vec<(&'static str, u64)> {
    let mut drops = plane.drops();
    drops.retain(|(reason, _)| *reason != "ipv6_control");
    drops
}

/// Nobody tells of it.
async fn eventually(what: &str, holds: impl Fn() -> bool) {
    for _ in 0..10_000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    panic!("{what}");
}

#[test]
fn filters_of_pods_become_links_while_packets_pass() {
    lab(|lab| async move {
        let plane = lab.load().await;
        let (one, two) = (lab.pod(&plane, "one").await, lab.pod(&plane, "two").await);
        assert_eq!((links(&lab), filters(&one), filters(&two)), (0, 2, 2));
        let listener = lab.in_pod(&two, || TcpListener::bind("0.0.0.0:8080").unwrap());
        let to = socket(two.addresses[0], 8080);
        let mut stream = lab.in_pod(&one, move || TcpStream::connect(to).unwrap());
        let mut served = listener.accept().unwrap().0;
        let echo = std::thread::spawn(move || {
            let mut byte = [0];
            let mut count = 0_u64;
            while served.read_exact(&mut byte).is_ok() {
                served.write_all(&byte).unwrap();
                count += 1;
            }
            count
        });
        let drops = dropped(&plane);
        drop(plane);

        // What the agent before left as filters is settled by the next one.
        let config = DataPlaneConfig {
            settle_after: Duration::ZERO,
            ..lab.config()
        };
        let plane = DataPlane::load(config).await.unwrap();
        let mut sent = 0;
        while links(&lab) < 4 || filters(&one) + filters(&two) > 0 {
            stream.write_all(b"x").unwrap();
            stream.read_exact(&mut [0]).unwrap();
            sent += 1;
            tokio::time::sleep(Duration::from_millis(1)).await;
            assert!(sent < 60_000, "{:?}", plane.attachments());
        }
        stream.write_all(b"x").unwrap();
        stream.read_exact(&mut [0]).unwrap();
        drop(stream);
        assert_eq!(echo.join().unwrap(), sent + 1);
        assert_eq!(dropped(&plane), drops);
        let hooks = plane.attachments().into_iter().map(|it| it.hook);
        let of_pods = hooks.filter(|hook| hook.starts_with("tcx") && hook.contains(" wg"));
        assert_eq!(of_pods.count(), 4);

        // One that begins now is settled, too; one that goes leaves nothing.
        let three = lab.pod(&plane, "three").await;
        eventually("it is settled, too", || {
            links(&lab) == 6 && filters(&three) == 0
        })
        .await;
        plane.remove_pod(&one.interface).await.unwrap();
        assert_eq!((links(&lab), filters(&one)), (4, 0));
        plane.unload().await.unwrap();
    });
}

#[test]
fn what_was_left_between_filter_and_link_is_put_right() {
    lab(|lab| async move {
        let config = DataPlaneConfig {
            settle_after: Duration::ZERO,
            ..lab.config()
        };
        let plane = DataPlane::load(config).await.unwrap();
        let pod = lab.pod(&plane, "pod").await;
        eventually("it is settled", || links(&lab) == 2 && filters(&pod) == 0).await;
        {
            // As if it had not come to remove them.
            let mut guard = plane.inner.state();
            let index = pod.interface.host_ifindex;
            let name = attach::interface_name(index).unwrap();
            let opened = Attachments::open(&lab.config().pin_dir).unwrap();
            let host = attach::Interface { index, name };
            opened.without_tcx().pod(&mut guard.objects, &host).unwrap();
        }
        drop(plane);
        assert_eq!((links(&lab), filters(&pod)), (2, 2));
        let plane = lab.load().await;
        assert_eq!((links(&lab), filters(&pod)), (2, 0));
        plane.unload().await.unwrap();
    });
}

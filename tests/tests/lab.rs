//! The lab itself: what the other tests stand on.

use std::{
    net::SocketAddr,
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

use anyhow::{Result, ensure};
use mesh_tests::lab::{
    Lab, Mesh, NameServer, RawSocket, Transfer, UdpEcho, Underlay, VxlanDevice, Web, ask_tcp, ask_udp,
    eventually, reachable_tcp, remains, udp_round_trip,
};

/// Two kernels' own devices, no daemon.
fn kernels(underlay: Underlay) -> Mesh {
    Mesh::new(0)
        .underlay(underlay)
        .kernel_node("k1")
        .kernel_node("k2")
        .network("blue", 4097, &["10.0.9.0/24", "fd00:9::/64"])
        .endpoint("one", "k1", "blue", "10.0.9.11", "one")
        .endpoint("two", "k2", "blue", "10.0.9.12", "two")
}

fn plug_together(lab: &Lab, mtu: u32) -> Result<()> {
    for (node, other, addresses) in [
        ("k1", "k2", ["10.0.9.11/24", "fd00:9::a00:90b/64"]),
        ("k2", "k1", ["10.0.9.12/24", "fd00:9::a00:90c/64"]),
    ] {
        let remote = lab.mesh().address(other)?;
        let addresses = addresses.map(str::to_owned).to_vec();
        VxlanDevice { vni: 4097, addresses, remote, mtu }.create(lab, node)?;
    }
    Ok(())
}

#[test]
fn two_kernels_speak_over_each_underlay() -> Result<()> {
    for (underlay, mtu) in [(Underlay::V4, 1450), (Underlay::V6, 1430)] {
        kernels(underlay).test(|lab| {
            plug_together(lab, mtu)?;
            let (one, two) = (lab.host("k1"), lab.host("k2"));
            two.serve_http(&Web::on(80))?;
            let sum = two.publish_random_file("file", 20_000_000)?;
            for address in ["10.0.9.12", "fd00:9::a00:90c"] {
                let address = address.parse()?;
                let headers = if underlay == Underlay::V4 { 1450 } else { 1430 };
                let fits = headers - if matches!(address, std::net::IpAddr::V4(_)) { 28 } else { 48 };
                one.ping(address, 3, fits)?;
                ensure!(one.ping(address, 1, fits + 1).is_err(), "a ping too long was answered");
                let web = SocketAddr::new(address, 80);
                ensure!(one.curl(&format!("http://{web}/"))?.starts_with("k2 sees "));
                ensure!(one.curl_sha256(&format!("http://{web}/files/file"))? == sum, "the file changed");
                let echo = SocketAddr::new(address, 7);
                let _server = UdpEcho::start(two, echo)?;
                udp_round_trip(one, echo, 0..=fits)?;
            }
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn servers_and_clients_on_the_underlay() -> Result<()> {
    kernels(Underlay::V4).client("other").test(|lab| {
        let (client, other) = (lab.host("client"), lab.host("other"));
        let own = lab.mesh().address_v4("client")?;
        other.serve_http(&Web::on(80))?;
        other.serve_udp(5353)?;
        for address in [lab.mesh().address_v4("other")?, lab.mesh().address_v6("other")?] {
            let web = SocketAddr::new(address, 80);
            ensure!(ask_tcp(client, web, 20_000..20_050)?.iter().all(|name| name == "other"));
            // The same ports again, at once.
            ensure!(ask_tcp(client, web, 20_000..20_050)?.len() == 50);
            let names = ask_udp(client, SocketAddr::new(address, 5353), 20_000..20_003)?;
            ensure!(names.iter().all(|name| name.trim_end() == "other"), "{names:?}");
            let fast = SocketAddr::new(address, 5354);
            let _server = NameServer::start(other, fast)?;
            ensure!(ask_udp(client, fast, 20_000..20_500)?.iter().all(|name| name == "other"));
            let (open, closed) = (web, SocketAddr::new(address, 81));
            let nobody = SocketAddr::new("192.0.2.99".parse()?, 80);
            let found = reachable_tcp(client, &[open, closed, nobody], Duration::from_millis(500))?;
            ensure!(found == [open, closed], "{found:?}");
        }
        eventually("the log names the client", Duration::from_secs(2), || {
            let log = other.access_log()?;
            ensure!(log.iter().filter(|line| *line == &format!("{own} GET /")).count() == 100, "{log:?}");
            Ok(())
        })
    })
}

#[test]
fn a_transfer_notices_what_happens_to_it() -> Result<()> {
    kernels(Underlay::V4).client("other").test(|lab| {
        let (client, other) = (lab.host("client"), lab.host("other"));
        let server = SocketAddr::new(lab.mesh().address("other")?, 9000);

        let transfer = Transfer::start(client, server, other, server)?;
        transfer.progress()?;
        let summary = transfer.finish()?;
        ensure!(summary.bytes > 2_000_000, "{summary:?}");

        // A wire that is cut and mended is a stall, no more.
        let transfer = Transfer::start(client, server, other, server)?;
        client.namespace.ip("link set eth0 down")?;
        std::thread::sleep(Duration::from_millis(300));
        client.namespace.ip("link set eth0 up")?;
        transfer.progress()?;
        let summary = transfer.finish()?;
        ensure!(summary.longest_stall >= Duration::from_millis(200), "{summary:?}");

        // One that is reset is broken.
        let transfer = Transfer::start(client, server, other, server)?;
        client.namespace.exec("ss --kill state established dport = :9000")?;
        ensure!(transfer.finish().is_err(), "a broken transfer was taken for a whole one");
        Ok(())
    })
}

#[test]
fn raw_frames_are_sent_and_seen() -> Result<()> {
    kernels(Underlay::V4).client("other").test(|lab| {
        let sender = RawSocket::open(lab.host("client"), "eth0")?;
        let receiver = RawSocket::open(lab.host("other"), "eth0")?;
        let mut frame = vec![0xff; 6];
        frame.extend([2, 0, 0, 0, 0, 7, 0x88, 0xb5]);
        frame.extend([0xab; 50]);
        sender.send(&frame)?;
        let seen = receiver.receive(Duration::from_secs(2), |seen| seen == frame)?;
        ensure!(seen.is_some(), "the frame did not arrive");
        ensure!(
            receiver.receive(Duration::from_millis(50), |seen| seen == frame)?.is_none(),
            "it came twice"
        );
        Ok(())
    })
}

#[test]
fn nothing_is_left_of_a_lab_that_panicked() -> Result<()> {
    let (mut prefix, mut directory) = (String::new(), String::new());
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        kernels(Underlay::V4).test(|lab| {
            lab.host("client").serve_http(&Web::on(80))?;
            lab.prefix().clone_into(&mut prefix);
            directory = lab.directory().display().to_string();
            ensure!(!remains(&prefix)?.is_empty(), "the lab is not seen");
            panic!("on purpose");
        })
    }));
    ensure!(panicked.is_err(), "the panic was swallowed");
    let left = remains(&prefix)?;
    ensure!(left.is_empty(), "left behind: {left:?}");
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let command = std::fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default();
        ensure!(!command.contains(&directory), "still running: {command}");
    }
    Ok(())
}

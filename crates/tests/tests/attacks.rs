//! What a container cannot do, each with the attack written out.
#![allow(clippy::unwrap_used)]

use tests::Host;

fn inside(host: &Host, name: &str, line: &str) -> (i32, String) {
    let said = host.wharf(["exec", name, "sh", "-c", line]);
    (said.code, said.stdout + &said.stderr)
}

fn two_networks() -> Host {
    let mut host = Host::new();
    host.write(
        "net.toml",
        "[network.a]\nsubnet = \"10.90.1.0/24\"\n[network.b]\nsubnet = \"10.90.2.0/24\"\n",
    );
    host.write(
        "evil.toml",
        &host.busybox_table(
            "evil",
            "exec sleep 1000",
            "networks = [\"a\"]\ncap_add = [\"NET_ADMIN\"]\n",
        ),
    );
    let victim = "while true; do echo -e 'HTTP/1.0 200 OK\\r\\n\\r\\nsecret' | nc -l -p 80; done";
    host.write(
        "victim.toml",
        &host.busybox_table("victim", victim, "networks = [\"b\"]\n"),
    );
    host.start_agent();
    host.converge();
    host
}

#[test]
fn it_cannot_reach_another_networks_containers() {
    let host = two_networks();
    let victim = host.container("victim").networks["b"].ip.clone().unwrap();
    let attack = format!("nc -w 2 {victim} 80 </dev/null; ping -c1 -W1 {victim}");
    let (code, text) = inside(&host, "evil", &attack);
    assert!(code != 0 && !text.contains("secret"), "{text}");
    // Even with an address of that network on its own interface, and a route that says it is a neighbour.
    let attack = format!(
        "ip addr add 10.90.2.99/24 dev eth0; ip route replace {victim}/32 dev eth0 src 10.90.2.99; nc -w 2 {victim} 80 </dev/null; ping -c1 -W1 {victim}"
    );
    let (code, text) = inside(&host, "evil", &attack);
    assert!(code != 0 && !text.contains("secret"), "{text}");
}

#[test]
fn it_cannot_reach_the_hosts_loopback() {
    let host = two_networks();
    let listener = host
        .ns
        .within(|| std::net::TcpListener::bind("127.0.0.1:7777").unwrap());
    listener.set_nonblocking(true).unwrap();
    let gateway = "10.90.1.1";
    let attack = format!(
        "ip route add 127.0.0.0/8 via {gateway} table 99 2>/dev/null; nc -w 2 {gateway} 7777 </dev/null; ip addr del 127.0.0.1/8 dev lo; ip route replace 127.0.0.1/32 via {gateway}; nc -w 2 127.0.0.1 7777 </dev/null; true"
    );
    inside(&host, "evil", &attack);
    let reached = listener.accept();
    assert_eq!(
        reached.unwrap_err().kind(),
        std::io::ErrorKind::WouldBlock,
        "nobody came"
    );
}

#[test]
fn it_cannot_write_the_program_that_runs_it() {
    let host = two_networks();
    let binary = tests::images::wharf_bin();
    let before = std::fs::metadata(&binary).unwrap();
    let attack = "for p in /proc/[0-9]*/exe /proc/self/exe; do (echo x >> $p) 2>/dev/null && echo wrote $p; done; ls -l /proc/*/exe | grep -c wharf";
    let (_, text) = inside(&host, "evil", attack);
    assert!(!text.contains("wharf"), "{text}");
    assert_eq!(std::fs::metadata(&binary).unwrap().len(), before.len());
}

#[test]
fn it_keeps_no_descriptor_of_ours() {
    let host = two_networks();
    let (_, text) = inside(&host, "evil", "ls -l /proc/1/fd | awk '{print $9, $11}'");
    for line in text.lines().filter(|l| !l.trim().is_empty()) {
        let (number, target) = line.trim().split_once(' ').unwrap_or((line.trim(), ""));
        assert!(["0", "1", "2"].contains(&number), "{line}");
        assert!(target.starts_with("pipe:") || target == "/dev/null", "{line}");
    }
}

#[test]
fn it_cannot_exceed_its_limits() {
    let mut host = Host::new();
    host.write(
        "mem.toml",
        &host.busybox_table(
            "mem",
            "exec dd if=/dev/zero of=/dev/null bs=200M count=1",
            "restart = \"no\"\n[container.mem.limits]\nmemory = \"32M\"\nmemory_swap = \"32M\"\n",
        ),
    );
    host.write(
        "bomb.toml",
        &host.busybox_table(
            "bomb",
            "f() { f | f & }; exec sleep 1000",
            "[container.bomb.limits]\npids = 30\n",
        ),
    );
    host.start_agent();
    let killed = host.until("killed for its memory", |s| {
        s.containers.iter().any(|c| c.name == "mem" && c.oom_killed)
    });
    assert!(
        !host.wharf(["logs", "mem"]).stdout.contains("survived"),
        "{killed:?}"
    );
    host.wait_for("bomb");
    let (_, text) = inside(
        &host,
        "bomb",
        "i=0; while [ $i -lt 200 ]; do sleep 100 >/dev/null 2>&1 & i=$((i+1)); done; echo all",
    );
    assert!(!text.contains("all\n") || text.contains("fork"), "{text}");
}

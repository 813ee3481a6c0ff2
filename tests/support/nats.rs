//! Real NATS servers: one, or a cluster of three, on 127.0.0.1, ended when dropped.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::netns::{Network, Node};
use super::proxy::Proxy;

/// The server's binary.
pub(crate) fn binary() -> PathBuf {
    tool("HARMONY_NATS_SERVER", "target/tools/bin/nats-server")
}

/// A server too old for us, and its version.
pub(crate) fn old_binary() -> (PathBuf, String) {
    let binary = tool("HARMONY_NATS_SERVER_29", "target/tools29/usr/sbin/nats-server");
    let said = Command::new(&binary).arg("--version").output().unwrap();
    let said = String::from_utf8(said.stdout).unwrap();
    // "nats-server: v2.9.10", in the words of every version.
    let version = said.trim().rsplit('v').next().unwrap().to_owned();
    let mut numbers = version.split('.').map(|number| number.parse::<u32>());
    let (Some(Ok(major)), Some(Ok(minor))) = (numbers.next(), numbers.next()) else {
        panic!("{} --version says {said:?}, and no version in it", binary.display())
    };
    assert!(
        (major, minor) < (2, 11),
        "{} is {version}: the tests need a server older than 2.11; set HARMONY_NATS_SERVER_29",
        binary.display()
    );
    (binary, version)
}

fn tool(variable: &str, otherwise: &str) -> PathBuf {
    let default = || Path::new(env!("CARGO_MANIFEST_DIR")).join(otherwise);
    let path = std::env::var_os(variable).map_or_else(default, PathBuf::from);
    assert!(path.is_file(), "{} is missing: run ./tests/run, or set {variable}", path.display());
    path
}

/// `count` ports that were free a moment ago.
pub(crate) fn free_ports(count: usize) -> Vec<u16> {
    let listeners: Vec<_> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    listeners.iter().map(|listener| listener.local_addr().unwrap().port()).collect()
}

/// Directories of servers with their data in memory are called so, with the process's id.
pub(crate) const IN_MEMORY: &str = "harmony-soak-";

/// One server and its data.
pub(crate) struct Server {
    binary: PathBuf,
    directory: TempDir,
    /// The part of its configuration that does not change.
    config: String,
    address: String,
    port: u16,
    /// Words before its command.
    within: Vec<String>,
    child: Option<Child>,
}

impl Server {
    /// Starts a single server with JetStream; `extra` is added to its configuration.
    pub(crate) fn start(extra: &str) -> Self {
        Self::start_binary(binary(), &format!("jetstream_sync\n{extra}"))
    }

    /// Starts a single server with room for so many MiB.
    pub(crate) fn start_small(mebibytes: u32) -> Self {
        let mut server = Self::new(binary(), free_ports(1)[0], "small", "jetstream_sync\n");
        server.config = server.config.replace("1GB", &format!("{mebibytes}MB"));
        server.configure("");
        server.spawn();
        server.await_ready();
        server
    }

    /// Starts a single server of another version, without settings it may not know.
    pub(crate) fn start_binary(binary: PathBuf, extra: &str) -> Self {
        let mut server = Self::new(binary, free_ports(1)[0], "single", extra);
        server.spawn();
        server.await_ready();
        server
    }

    fn new(binary: PathBuf, port: u16, name: &str, extra: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        Self::at(binary, directory, "127.0.0.1", port, name, extra)
    }

    fn at(
        binary: PathBuf,
        directory: TempDir,
        address: &str,
        port: u16,
        name: &str,
        extra: &str,
    ) -> Self {
        let data = directory.path().join("data");
        let (sync, extra) = match extra.strip_prefix("jetstream_sync\n") {
            Some(rest) => ("sync_interval: always", rest),
            None => ("", extra),
        };
        let config = format!(
            "server_name: {name}\nlisten: \"{address}:{port}\"\n\
             jetstream {{ store_dir: {data:?}, max_mem: 64MB, max_file: 1GB\n{sync} }}\n"
        );
        let (address, within) = (address.to_owned(), Vec::new());
        let server = Self { binary, directory, config, address, port, within, child: None };
        server.configure(extra);
        server
    }

    /// Adds this to its configuration, in the place of what was added before, from the next start on.
    fn configure(&self, extra: &str) {
        let config = format!("{}{extra}\n", self.config);
        fs::write(self.directory.path().join("server.conf"), config).unwrap();
    }

    /// Stops it, and starts it with `extra` added to its configuration instead.
    pub(crate) fn restart_with(&mut self, extra: &str) {
        self.stop();
        self.configure(extra);
        self.spawn();
        self.await_ready();
    }

    /// Where clients connect.
    pub(crate) fn url(&self) -> String {
        format!("nats://{}:{}", self.address, self.port)
    }

    /// Where clients connect that insist on TLS.
    pub(crate) fn tls_url(&self) -> String {
        format!("tls://127.0.0.1:{}", self.port)
    }

    /// The port that clients connect to.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Where the data is.
    pub(crate) fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// What the server wrote to its log.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    /// Starts it, not waiting until it answers.
    pub(crate) fn spawn(&mut self) {
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.directory.path().join("log"))
            .unwrap();
        let words: Vec<_> = self.within.iter().map(PathBuf::from).collect();
        let words = [words, vec![self.binary.clone()]].concat();
        let child = Command::new(&words[0])
            .args(&words[1..])
            .arg("-c")
            .arg(self.directory.path().join("server.conf"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.child = Some(child);
    }

    /// Waits until it greets clients.
    pub(crate) fn await_ready(&mut self) {
        for _ in 0..600 {
            if let Ok(stream) = TcpStream::connect((self.address.as_str(), self.port)) {
                stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
                let mut line = String::new();
                let read = BufReader::new(stream).read_line(&mut line);
                if read.is_ok() && line.starts_with("INFO") {
                    return;
                }
            }
            let ended = self.child.as_mut().and_then(|child| child.try_wait().unwrap());
            assert!(ended.is_none(), "nats-server ended: {}", self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("nats-server does not answer: {}", self.log());
    }

    /// Starts it unless it runs.
    pub(crate) fn respawn(&mut self) {
        if self.child.as_mut().is_none_or(|child| child.try_wait().unwrap().is_some()) {
            self.spawn();
        }
    }

    /// Its process.
    pub(crate) fn pid(&self) -> Option<Pid> {
        self.child.as_ref().map(Pid::from_child)
    }

    /// Ends it at once, as a crash does.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Asks it to end, and waits until it did.
    pub(crate) fn stop(&mut self) {
        self.signal(Signal::TERM);
        if let Some(mut child) = self.child.take() {
            child.wait().unwrap();
        }
    }

    /// Stops its processor time; its sockets stay open.
    pub(crate) fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets it go on.
    pub(crate) fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        if let Some(child) = &self.child {
            kill_process(Pid::from_child(child), signal).unwrap();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ended_already = child.kill();
            let _ended_already = child.wait();
        }
    }
}

/// Changes one setting of a stream that is in use, as an operator could.
pub(crate) async fn change_stream(url: &str, stream: &str, setting: &str, value: u32) {
    let client = async_nats::connect(url).await.unwrap();
    let ask = async |verb: &str, question: String| -> serde_json::Value {
        let subject = format!("$JS.API.STREAM.{verb}.{stream}");
        let answer = client.request(subject, question.into()).await.unwrap();
        serde_json::from_slice(&answer.payload).unwrap()
    };
    let mut config = ask("INFO", String::new()).await["config"].take();
    config[setting] = value.into();
    let changed = ask("UPDATE", config.to_string()).await;
    assert_eq!(changed["config"][setting], value, "{changed}");
}

/// Which server leads a stream, as somebody says who can be asked.
pub(crate) async fn leader_of(urls: Vec<String>, stream: &str) -> Option<String> {
    let client = async_nats::connect(urls).await.ok()?;
    let subject = format!("$JS.API.STREAM.INFO.{stream}");
    let answer = client.request(subject, Vec::new().into()).await.ok()?;
    let answer: serde_json::Value = serde_json::from_slice(&answer.payload).ok()?;
    Some(answer["cluster"]["leader"].as_str()?.to_owned())
}

/// Deletes a stream, as an operator could.
pub(crate) async fn delete_stream(urls: Vec<String>, stream: &str) -> Result<(), String> {
    let client = async_nats::connect(urls).await.map_err(|why| why.to_string())?;
    let streams = async_nats::jetstream::new(client);
    streams.delete_stream(stream).await.map(|_| ()).map_err(|why| why.to_string())
}

fn direct(route: u16) -> String {
    format!("nats://127.0.0.1:{route}")
}

/// One server of a cluster, called `s` and its number.
fn clustered(number: usize, client: u16, route: u16, more: &str, known: &[String]) -> Server {
    let extra = in_cluster("127.0.0.1", route, more, known);
    Server::new(binary(), client, &format!("s{number}"), &extra)
}

/// The part of a server's configuration that makes it one of a cluster.
fn in_cluster(address: &str, route: u16, more: &str, known: &[String]) -> String {
    format!(
        "jetstream_sync\nping_interval: \"2s\"\nping_max: 2\nwrite_deadline: \"2s\"\n\
         cluster {{ name: c, listen: \"{address}:{route}\", {more} no_advertise: true, \
         ping_interval: \"2s\", ping_max: 2, routes: {known:?} }}"
    )
}

/// One server of a cluster on a machine of its own, called `s` and its number, with its data in
/// memory: what a busy disk does is not what these tests are about.
fn remote(number: usize, node: &Node, known: &[String]) -> Server {
    let extra = in_cluster(&node.address, 6222, "", known);
    let prefix = format!("{IN_MEMORY}{}-", std::process::id());
    let directory = tempfile::Builder::new().prefix(&prefix).tempdir_in("/dev/shm").unwrap();
    let name = format!("s{number}");
    let mut server = Server::at(binary(), directory, &node.address, 4222, &name, &extra);
    server.within = node.within();
    server
}

/// Three servers that replicate to each other.
pub(crate) struct Cluster {
    /// The servers.
    pub(crate) servers: Vec<Server>,
}

impl Cluster {
    /// Starts three servers.
    pub(crate) fn start() -> Self {
        let ports = free_ports(6);
        let (clients, routes) = ports.split_at(3);
        let known: Vec<_> = routes.iter().map(|port| direct(*port)).collect();
        let mut servers: Vec<_> = (0..3)
            .map(|number| clustered(number, clients[number], routes[number], "", &known))
            .collect();
        servers.iter_mut().for_each(Server::spawn);
        servers.iter_mut().for_each(Server::await_ready);
        Self { servers }
    }

    /// Starts a server on each of these machines of a network.
    pub(crate) fn start_on(network: &Network, nodes: &[usize]) -> Self {
        let nodes: Vec<&Node> = nodes.iter().map(|node| &network.nodes[*node]).collect();
        let known: Vec<_> =
            nodes.iter().map(|node| format!("nats://{}:6222", node.address)).collect();
        let mut servers: Vec<_> =
            nodes.iter().enumerate().map(|(number, node)| remote(number, node, &known)).collect();
        servers.iter_mut().for_each(Server::spawn);
        servers.iter_mut().for_each(Server::await_ready);
        Self { servers }
    }

    /// Starts three servers of which the first can be cut off: whatever it and the others say to each
    /// other passes one of the proxies returned.
    pub(crate) async fn start_with_links() -> (Self, Vec<Proxy>) {
        let ports = free_ports(6);
        let (clients, routes) = ports.split_at(3);
        let mut links = Vec::new();
        for route in routes {
            links.push(Proxy::start(*route).await);
        }
        let link = |number: usize| links[number].url();
        // The first knows the others by proxies, the others know it by one, and each other directly.
        let known =
            [[link(1), link(2)], [direct(routes[2]), link(0)], [direct(routes[1]), link(0)]];
        let mut servers: Vec<_> = (0..3)
            .map(|number| {
                // What servers tell each other of a third is a proxy, too: nobody learns a way around.
                let advertised = link(number).replace("nats://", "");
                let advertise = format!("advertise: {advertised:?},");
                clustered(number, clients[number], routes[number], &advertise, &known[number])
            })
            .collect();
        // The first comes last, when the others are connected: they need no word from it.
        servers[1].spawn();
        servers[2].spawn();
        let elected = "JetStream cluster new metadata leader";
        for _ in 0..600 {
            if servers.iter().any(|server| server.log().contains(elected)) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert!(servers.iter().any(|server| server.log().contains(elected)), "no leader");
        servers[0].spawn();
        servers.iter_mut().for_each(Server::await_ready);
        (Self { servers }, links)
    }

    /// Where clients connect.
    pub(crate) fn urls(&self) -> Vec<String> {
        self.servers.iter().map(Server::url).collect()
    }
}

//! The members together: started, waited for, questioned.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::StoreChoice;
use super::client::{Host, make_table};
use super::member::{Common, Member, describe};
use super::report::{Kept, KeptMember};
use super::said::Said;
use super::view::Board;

/// Time between two questions while something is waited for.
const ASK: Duration = Duration::from_millis(20);
/// How long the first start may take: initdb, a base backup per member.
const START: Duration = Duration::from_secs(120);
/// How long a member may take to follow again.
pub(super) const REJOIN: Duration = Duration::from_secs(120);

/// The members.
#[derive(Debug)]
pub(super) struct Cluster {
    /// In order of their names.
    pub(super) members: Vec<Member>,
    /// Where the demo says what it does.
    pub(super) board: Board,
}

impl Cluster {
    /// Makes `count` members, without starting them.
    ///
    /// # Errors
    /// A file cannot be written or a port found.
    pub(super) fn make(count: u8, common: &Common, board: &Board) -> anyhow::Result<Self> {
        let store = common.home.join("store");
        std::fs::create_dir(&store).with_context(|| format!("make {}", store.display()))?;
        secret(&common.home.join("replication.password"))?;
        secret(&common.home.join("peers.secret"))?;
        let names = ('a'..='z').take(count.into()).map(String::from);
        let members = names.map(|name| Member::make(&name, common)).collect::<Result<_, _>>()?;
        Ok(Self { members, board: board.clone() })
    }

    /// Starts all agents and waits until every member follows.
    ///
    /// # Errors
    /// An agent ended, or it took too long.
    pub(super) async fn start(&mut self) -> anyhow::Result<()> {
        for member in &mut self.members {
            member.start()?;
        }
        let primary = self.all_follow(START).await.context("the cluster did not come up")?;
        self.admit_clients().await?;
        make_table(&self.members[primary].host()).await
    }

    /// What every agent says, in order; `None` of one that does not answer.
    pub(super) async fn ask(&self) -> Vec<Option<Said>> {
        futures_util::future::join_all(self.members.iter().map(Member::ask)).await
    }

    /// Waits until one member leads and all others follow; returns the index of the one that leads.
    ///
    /// # Errors
    /// An agent ended, or it took longer than `limit`; the text shows states and logs.
    pub(super) async fn all_follow(&mut self, limit: Duration) -> anyhow::Result<usize> {
        let end = Instant::now() + limit;
        loop {
            let said = self.ask().await;
            if let Some(primary) = settled(&said) {
                return Ok(primary);
            }
            self.check_agents()?;
            if Instant::now() > end {
                bail!("not every member follows after {limit:?}\n{}", self.account(&said));
            }
            sleep(ASK).await;
        }
    }

    /// Waits until what all members say is as `met` wants it; `what` that is, for a person.
    ///
    /// # Errors
    /// As [`Self::all_follow`].
    pub(super) async fn until(
        &mut self,
        what: &str,
        limit: Duration,
        met: impl Fn(&[Option<Said>]) -> bool,
    ) -> anyhow::Result<()> {
        let end = Instant::now() + limit;
        loop {
            let said = self.ask().await;
            if met(&said) {
                return Ok(());
            }
            self.check_agents()?;
            if Instant::now() > end {
                bail!("not within {limit:?}: {what}\n{}", self.account(&said));
            }
            sleep(ASK).await;
        }
    }

    /// Waits until the member at `index` does its part; returns whether it leads.
    ///
    /// # Errors
    /// As [`Self::all_follow`].
    pub(super) async fn is_back(&mut self, index: usize, limit: Duration) -> anyhow::Result<bool> {
        let end = Instant::now() + limit;
        loop {
            match self.members[index].ask().await {
                Some(said) if said.leads() || said.follows() => return Ok(said.leads()),
                Some(_) | None => {}
            }
            self.check_agents()?;
            if Instant::now() > end {
                let said = self.ask().await;
                let name = &self.members[index].name;
                bail!("member {name} does not follow after {limit:?}\n{}", self.account(&said));
            }
            sleep(ASK).await;
        }
    }

    /// An agent that ended without being told to is worth no further wait.
    fn check_agents(&mut self) -> anyhow::Result<()> {
        for member in &mut self.members {
            if let Some(status) = member.ended() {
                let how = describe(status);
                bail!("the agent of {} ended with {how}; its log:\n{}", member.name, member.tail());
            }
        }
        Ok(())
    }

    /// States and log tails, for a person.
    pub(super) fn account(&self, said: &[Option<Said>]) -> String {
        let state = |said: &Option<Said>| match said {
            Some(said) if said.follows() => format!("{}, streaming", said.state),
            Some(said) => said.state.to_string(),
            None => "no answer".to_owned(),
        };
        let states =
            self.members.iter().zip(said).map(|(m, said)| format!("{}: {}\n", m.name, state(said)));
        let tails = self.members.iter().map(Member::tail);
        states.chain(tails).collect::<String>().trim_end().to_owned()
    }

    /// The clients log in over TCP as on any test bench: trusted. `pg_hba.conf` is the users', so
    /// this is the demo's to say; a member that is cloned later gets it with the copy.
    async fn admit_clients(&self) -> anyhow::Result<()> {
        for member in &self.members {
            if member.host().session().await.is_ok() {
                continue;
            }
            let path = member.data_dir().join("pg_hba.conf");
            let rules = std::fs::read_to_string(&path)
                .with_context(|| format!("read {}", path.display()))?;
            let rules = format!("host all postgres 127.0.0.1/32 trust\n{rules}");
            // Over the old content: owner and mode stay.
            std::fs::write(&path, rules).with_context(|| format!("write {}", path.display()))?;
            let Some(postmaster) = member.postmaster() else {
                bail!("{} has no postmaster", member.name)
            };
            rustix::process::kill_process(postmaster, rustix::process::Signal::HUP)
                .with_context(|| format!("reload {}", member.name))?;
            self.wait_admitted(member).await?;
        }
        Ok(())
    }

    async fn wait_admitted(&self, member: &Member) -> anyhow::Result<()> {
        let end = Instant::now() + Duration::from_secs(5);
        loop {
            match member.host().session().await {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() > end => {
                    return Err(error).with_context(|| format!("log in to {}", member.name));
                }
                Err(_) => sleep(ASK).await,
            }
        }
    }

    /// Where clients connect.
    pub(super) fn hosts(&self) -> Vec<Host> {
        self.members.iter().map(Member::host).collect()
    }

    /// What `--keep` prints.
    ///
    /// # Errors
    /// A process is gone meanwhile.
    pub(super) fn kept(
        &self,
        primary: usize,
        store: &StoreChoice,
        home: &Path,
    ) -> anyhow::Result<Kept> {
        let members = self.members.iter().map(|member| {
            let pid = |pid: Option<rustix::process::Pid>, what: &str| {
                let pid = pid.with_context(|| format!("{} has no {what}", member.name))?;
                anyhow::Ok(pid.as_raw_nonzero().get())
            };
            Ok(KeptMember {
                name: member.name.clone(),
                host: "127.0.0.1".to_owned(),
                port: member.port,
                agent_pid: pid(member.agent_pid(), "agent")?,
                agent_http: member.http.clone(),
                postgres_pid: pid(member.postmaster(), "postmaster")?,
                data_dir: member.data_dir().display().to_string(),
                config: member.config().display().to_string(),
            })
        });
        let list = |each: &dyn Fn(&Member) -> String| {
            self.members.iter().map(each).collect::<Vec<_>>().join(",")
        };
        let (hosts, ports) = (list(&|_| "127.0.0.1".to_owned()), list(&|m| m.port.to_string()));
        Ok(Kept {
            members: members.collect::<anyhow::Result<_>>()?,
            primary: self.members[primary].name.clone(),
            client_dsn: format!(
                "host={hosts} port={ports} user=postgres dbname=postgres target_session_attrs=read-write"
            ),
            store: match store {
                StoreChoice::Sqlite => {
                    format!("sqlite:{}", home.join("store/store.sqlite").display())
                }
                StoreChoice::Nats(servers) => servers.join(","),
            },
        })
    }
}

/// The index of the one that leads, when all others follow it.
fn settled(said: &[Option<Said>]) -> Option<usize> {
    let said: Vec<&Said> = said.iter().map(Option::as_ref).collect::<Option<_>>()?;
    let primary = said.iter().position(|said| said.leads())?;
    let others = said.iter().enumerate().filter(|(index, _)| *index != primary);
    others.into_iter().all(|(_, said)| said.follows()).then_some(primary)
}

fn secret(path: &Path) -> anyhow::Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let file = std::fs::OpenOptions::new().create_new(true).write(true).mode(0o600).open(path);
    file.and_then(|mut file| writeln!(file, "{}", Uuid::new_v4().simple()))
        .with_context(|| format!("write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(state: &str, leads: bool, streaming: bool) -> Said {
        let text = format!(
            r#"{{"state":"{state}","epoch":1,"is_primary":{leads},"writable":{leads},
                "database":{{"streaming":{streaming}}}}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn settled_is_one_that_leads_and_all_others_streaming() {
        let leader = || Some(said("primary_healthy", true, false));
        let follower = || Some(said("replica_watching", false, true));
        assert_eq!(settled(&[follower(), leader()]), Some(1));
        assert_eq!(settled(&[leader()]), Some(0));
        assert_eq!(settled(&[leader(), leader()]), None);
        assert_eq!(settled(&[follower(), follower()]), None);
        assert_eq!(settled(&[leader(), None]), None);
        assert_eq!(settled(&[leader(), Some(said("replica_watching", false, false))]), None);
        assert_eq!(settled(&[leader(), Some(said("replica_initializing", false, true))]), None);
    }
}

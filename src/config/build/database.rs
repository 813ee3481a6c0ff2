//! What the member is made of.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::super::Database;
use super::super::show::show_size;
use super::super::source::Origin;
use super::super::value::Value;
use super::{Reader, small};
use crate::core::ids::MemberId;
use crate::database::{cnpg, local};

/// The kinds of databases there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Local,
    Cnpg,
}

impl Reader {
    pub(super) fn kind(&self) -> Kind {
        match self.text("database.kind").as_str() {
            "cnpg" => Kind::Cnpg,
            _ => Kind::Local,
        }
    }

    /// The database, with host and port under which others reach it.
    pub(super) fn database(&mut self, member: &MemberId) -> (Database, String, u16) {
        match self.kind() {
            Kind::Local => {
                let local = self.local(member);
                let port = local.port;
                (Database::Local(local), self.text("database.local.host"), port)
            }
            Kind::Cnpg => {
                let cnpg = self.cnpg(member);
                let (host, port) = (cnpg.host.clone(), cnpg.port);
                (Database::Cnpg(cnpg), host, port)
            }
        }
    }

    fn cnpg(&mut self, member: &MemberId) -> cnpg::Settings {
        let cluster = self.optional("database.cnpg.cluster");
        if cluster.is_none() && !self.given.broken.contains("database.cnpg.cluster") {
            self.problem(
                "database.cnpg.cluster is missing; kind = \"cnpg\" needs the name of the Cluster"
                    .to_owned(),
            );
        }
        let pgdata = self.path("database.cnpg.pgdata");
        let cluster = cluster.unwrap_or_default();
        let service = format!("{cluster}-rw");
        cnpg::Settings {
            member: member.clone(),
            instance: self.optional("database.cnpg.instance"),
            site: self.optional("site").and_then(|site| site.parse().ok()),
            host: self.optional("database.cnpg.host").unwrap_or(service),
            access: cnpg::Access {
                cluster,
                namespace: self.optional("database.cnpg.namespace"),
                url: self.optional("database.cnpg.api"),
                token_file: self.file("database.cnpg.token_file"),
                ca_file: self.file("database.cnpg.ca_file"),
                timeout: self.duration("database.cnpg.api_timeout"),
            },
            bin_dir: self.bin_dir("database.cnpg.bin_dir", &pgdata, "pg_controldata"),
            pgdata,
            port: u16::try_from(self.whole("database.cnpg.port")).unwrap_or_default(),
            socket_dir: self.path("database.cnpg.socket_dir"),
            hung_after: self.duration("database.cnpg.hung_after"),
            write_probe_interval: self.duration("database.cnpg.write_probe_interval"),
        }
    }

    fn local(&mut self, member: &MemberId) -> local::Settings {
        let data_dir = self.path("database.local.data_dir");
        let wal_keep = self.whole("database.local.wal_keep");
        if !wal_keep.is_multiple_of(1 << 20) || wal_keep >> 20 > 0x7FFF_FFFF {
            self.problem(format!(
                "database.local.wal_keep is {}; PostgreSQL counts it in whole MiB, below 2048TiB",
                show_size(wal_keep)
            ));
        }
        let parameters = match self.values.get("database.local.parameters") {
            Some((Value::Table(parameters), _)) => parameters.clone(),
            Some(_) | None => BTreeMap::new(),
        };
        local::Settings {
            member: member.clone(),
            bin_dir: self.bin_dir("database.local.bin_dir", &data_dir, "postgres"),
            data_dir,
            port: u16::try_from(self.whole("database.local.port")).unwrap_or_default(),
            listen: self.text("database.local.listen"),
            socket_dir: self.path("database.local.socket_dir"),
            os_user: self.os_user(),
            superuser: self.text("database.local.superuser"),
            database: self.text("database.local.database"),
            replication_user: self.text("database.local.replication_user"),
            replication_password_file: self.file("database.local.replication_password_file"),
            wal_keep_mib: small(wal_keep >> 20),
            parameters,
            hung_after: self.duration("database.local.hung_after"),
            write_probe_interval: self.duration("database.local.write_probe_interval"),
        }
    }

    fn bin_dir(&mut self, path: &'static str, data_dir: &Path, program: &str) -> PathBuf {
        if let Some(given) = self.optional(path) {
            return given.into();
        }
        let found = find_bin_dir(data_dir, program);
        if let Some(found) = found {
            self.values.insert(path, (Value::Text(found.display().to_string()), Origin::Found));
            return found;
        }
        if !self.given.broken.contains(path) {
            self.problem(format!(
                "{path} is not set and there is no /usr/lib/postgresql/*/bin with {program}; install \
                 PostgreSQL or set it"
            ));
        }
        PathBuf::new()
    }

    fn os_user(&mut self) -> Option<String> {
        let path = "database.local.os_user";
        let root = rustix::process::geteuid().is_root();
        if root && !self.values.contains_key(path) {
            self.values.insert(path, (Value::Text("postgres".to_owned()), Origin::Found));
        }
        self.optional(path)
    }
}

/// The binaries of the version that `data_dir` was made by, else the newest installed.
fn find_bin_dir(data_dir: &Path, program: &str) -> Option<PathBuf> {
    let version = std::fs::read_to_string(data_dir.join("PG_VERSION")).unwrap_or_default();
    let root = Path::new("/usr/lib/postgresql");
    let installed = std::fs::read_dir(root).into_iter().flatten().flatten();
    let numbers = installed.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let mut usable: Vec<u32> = numbers
        .filter(|number| root.join(number.to_string()).join("bin").join(program).exists())
        .collect();
    usable.sort_unstable();
    let same = version.trim().parse().ok().filter(|version| usable.contains(version));
    let number = same.or(usable.last().copied())?;
    Some(root.join(number.to_string()).join("bin"))
}

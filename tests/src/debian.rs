//! Images of real applications, from the packages of this machine's Debian: resolved and fetched by apt, unpacked by
//! dpkg-deb, nothing installed on the machine and no script of a package run.
//!
//! What was built is kept below `target/applications`, under the digest of what it is built from.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::fcntl::{Flock, FlockArg};

use crate::image;
use crate::process::Outcome;

/// An application's image.
#[derive(Debug)]
pub struct Application {
    /// What pods call it.
    pub image: &'static str,
    /// The packages that are asked for; what they depend on comes with them.
    packages: &'static [&'static str],
    /// Lines of `/etc/passwd` and `/etc/group` that the packages' scripts would have written.
    user: Option<(&'static str, u32)>,
}

pub const NGINX: Application = Application {
    image: "waggle.test/nginx:1",
    packages: &["nginx-light"],
    user: Some(("www-data", 33)),
};

pub const POSTGRESQL: Application = Application {
    image: "waggle.test/postgresql:15",
    packages: &["postgresql-15"],
    user: Some(("postgres", 999)),
};

pub const REDIS: Application = Application {
    image: "waggle.test/redis:7",
    packages: &["redis-server"],
    user: Some(("redis", 999)),
};

pub const PROMETHEUS: Application = Application {
    image: "waggle.test/prometheus:2",
    packages: &["prometheus"],
    user: Some(("prometheus", 999)),
};

pub const PYTHON: Application = Application {
    image: "waggle.test/python:3",
    packages: &["python3"],
    user: None,
};

/// Python with the client library for the API.
pub const PYTHON_CLIENT: Application = Application {
    image: "waggle.test/python-client:22",
    packages: &["python3", "python3-kubernetes"],
    user: None,
};

/// As programs in Debian's packages expect it. PostgreSQL's own are elsewhere; what is in their place is in Perl.
const PATH: &str = "/usr/lib/postgresql/15/bin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What packages depend on for being installed, or for what these images do not do.
const LEFT_OUT: &[&str] = &[
    "adduser",
    "debconf",
    "dpkg",
    "init-system-helpers",
    "iproute2",
    "javascript-common",
    "libc-l10n",
    "libllvm14",
    "libz3-4",
    "locales",
    "lsb-base",
    "openssl",
    "passwd",
    "perl",
    "perl-base",
    "sensible-utils",
    "ssl-cert",
    "sysvinit-utils",
    "tar",
    "ucf",
    "usrmerge",
];

/// Parts of packages that no program reads.
const REMOVED: &[&str] = &[
    "usr/share/doc",
    "usr/share/info",
    "usr/share/lintian",
    "usr/share/locale",
    "usr/share/man",
    "usr/share/javascript",
    "usr/lib/postgresql/15/lib/bitcode",
];

fn is_left_out(package: &str) -> bool {
    LEFT_OUT.contains(&package)
        || package.starts_with("perl-modules")
        || package.starts_with("libperl")
        || package.ends_with("-perl")
}

/// A file that apt would fetch.
#[derive(Debug, PartialEq, Eq)]
struct Package {
    name: String,
    version: String,
    file: String,
}

/// From a line of `apt-get --print-uris`: `'URI' FILE SIZE DIGEST`; a colon in a version is `%3a`.
fn parse(line: &str) -> Option<Package> {
    let file = line.split(' ').nth(1)?;
    let mut parts = file.strip_suffix(".deb")?.split('_');
    let (name, version) = (parts.next()?, parts.next()?);
    Some(Package {
        name: name.to_owned(),
        version: version.replace("%3a", ":"),
        file: file.to_owned(),
    })
}

impl Application {
    /// Path of a docker archive of the image; built first if it is not there yet.
    pub fn archive(&self) -> PathBuf {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/applications");
        let debs = root.join("packages");
        std::fs::create_dir_all(&debs).expect("a folder for packages");
        // One at a time, also among the processes of several tests: they share packages.
        let lock = File::create(root.join("lock")).expect("a lock");
        let _lock = Flock::lock(lock, FlockArg::LockExclusive).expect("the lock");
        let packages = self.resolve(&root).unwrap_or_else(|_| {
            update();
            self.resolve(&root).unwrap_or_else(|why| panic!("{why}"))
        });
        let archive = root.join(format!("{}.tar", self.digest(&packages)));
        if archive.exists() {
            return archive;
        }
        if fetch(&debs, &packages).code != Some(0) {
            // The lists name versions that the archive has no more.
            update();
            let packages = self.resolve(&root).unwrap_or_else(|why| panic!("{why}"));
            fetch(&debs, &packages).ok();
            return self.build(&root, &packages);
        }
        self.build(&root, &packages)
    }

    /// What apt would fetch for a machine that has nothing.
    fn resolve(&self, root: &Path) -> Result<Vec<Package>, String> {
        let nothing = root.join("nothing-installed");
        std::fs::write(&nothing, "").expect("an empty list of packages");
        let mut command = Command::new("apt-get");
        command
            .args(["install", "-qq", "--print-uris", "--no-install-recommends"])
            .arg("-o")
            .arg(format!("Dir::State::status={}", nothing.display()))
            .arg("-o")
            .arg(format!("Dir::Cache::archives={}", root.display()))
            .args(self.packages);
        let outcome = Outcome::of(&mut command);
        if outcome.code != Some(0) {
            return Err(format!("{}: {}", outcome.command, outcome.stderr));
        }
        let packages = outcome.stdout.lines().filter_map(parse);
        Ok(packages
            .filter(|package| !is_left_out(&package.name))
            .collect())
    }

    /// Of all that makes the image what it is.
    fn digest(&self, packages: &[Package]) -> String {
        let files: Vec<&str> = packages.iter().map(|it| it.file.as_str()).collect();
        let text = format!("{self:?} {PATH} {REMOVED:?} {files:?}");
        let mut command = Command::new("sh");
        command.args(["-c", "printf %s \"$1\" | sha256sum", "sh", &text]);
        let digest = Outcome::of(&mut command).ok();
        let name = self.image.rsplit('/').next().expect("a name");
        format!("{}-{}", name.replace(':', "-"), &digest[..16])
    }

    fn build(&self, root: &Path, packages: &[Package]) -> PathBuf {
        let work = tempfile::Builder::new()
            .prefix("build")
            .tempdir_in(root)
            .expect("a folder to build in");
        // A shell and its applets, where no package brings them.
        let tree = image::busybox_root(work.path());
        for package in packages {
            let mut unpack = Command::new("dpkg-deb");
            unpack.arg("-x");
            unpack.arg(root.join("packages").join(&package.file));
            Outcome::of(unpack.arg(&tree)).ok();
        }
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o1777);
        std::fs::set_permissions(tree.join("tmp"), open).expect("a folder for everybody");
        for folder in REMOVED {
            let _ = std::fs::remove_dir_all(tree.join(folder));
        }
        std::fs::write(tree.join("etc/nsswitch.conf"), "hosts: files dns\n").expect("nsswitch");
        if let Some((name, id)) = self.user {
            let line = |file: &str, line: String| {
                let path = tree.join("etc").join(file);
                let text = std::fs::read_to_string(&path).expect("users of the image");
                std::fs::write(path, text + &line).expect("users of the image");
            };
            line("passwd", format!("{name}:x:{id}:{id}::/tmp:/bin/sh\n"));
            line("group", format!("{name}:x:{id}:\n"));
        }
        let name = format!("{}.tar", self.digest(packages));
        let built = image::archive(work.path(), &tree, self.image, &name, PATH);
        let archive = root.join(name);
        std::fs::rename(built, &archive).expect("keep the image");
        archive
    }
}

fn update() {
    Outcome::of(Command::new("apt-get").args(["update", "-qq"])).ok();
}

/// Those that are not there yet.
fn fetch(folder: &Path, packages: &[Package]) -> Outcome {
    let missing = packages
        .iter()
        .filter(|package| !folder.join(&package.file).exists());
    let names: Vec<String> = missing
        .map(|package| format!("{}={}", package.name, package.version))
        .collect();
    let mut command = Command::new("apt-get");
    command.args(["download", "-qq", "-o", "APT::Sandbox::User=root"]);
    if names.is_empty() {
        command = Command::new("true");
    }
    Outcome::of(command.args(&names).current_dir(folder))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn what_apt_would_fetch_is_read() {
        let line = "'http://deb.example.org/pool/z/zlib1g_1.2.13.dfsg-1_amd64.deb' \
                    zlib1g_1%3a1.2.13.dfsg-1_amd64.deb 86684 SHA256:52b8";
        let package = parse(line).unwrap();
        assert_eq!(
            (package.name.as_str(), package.version.as_str()),
            ("zlib1g", "1:1.2.13.dfsg-1")
        );
        assert_eq!(parse("Reading package lists..."), None);
    }
}

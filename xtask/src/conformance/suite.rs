//! The suite and the programs of its images, built from Debian's source package of Kubernetes with Debian's Go.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};

use crate::run::{self, checked};

/// What was built.
pub(super) struct Suite {
    /// The unpacked source package.
    pub(super) sources: PathBuf,
    /// Folder of the programs for images.
    pub(super) programs: PathBuf,
    pub(super) tests: PathBuf,
    pub(super) ginkgo: PathBuf,
}

/// Debian's release whose Kubernetes, and whose Go, this is.
const RELEASE: &str = "bookworm";
/// The last Go that Debian 12 has, with which Kubernetes 1.20 builds.
const GO: &str = "/usr/lib/go-1.19/bin/go";
/// Programs for images, and where their sources are.
const PROGRAMS: &[(&str, &str)] = &[
    ("agnhost", "test/images/agnhost"),
    ("nnp", "test/images/nonewprivs"),
    ("consumer", "test/images/resource-consumer"),
    (
        "regression-issue-74839",
        "test/images/regression-issue-74839",
    ),
    ("kube-sample-apiserver", "vendor/k8s.io/sample-apiserver"),
];
/// Folders whose files the tests read.
const FILES: &[&str] = &[
    "test/conformance/testdata",
    "test/e2e/testing-manifests",
    "test/e2e_node/testing-manifests",
    "test/fixtures",
    "test/images",
];

pub(super) fn ensure(work: &Path) -> anyhow::Result<Suite> {
    let programs = work.join("programs");
    std::fs::create_dir_all(&programs)?;
    let tests = programs.join("e2e.test");
    let ginkgo = programs.join("ginkgo");
    let sources = sources(work)?;
    if !Path::new(GO).is_file() {
        checked(
            Command::new("apt-get")
                .env("DEBIAN_FRONTEND", "noninteractive")
                .args(["install", "-q", "-y", "--no-install-recommends"])
                .arg("golang-1.19-go"),
        )?;
    }
    let tree = in_gopath(work, &sources)?;
    for (name, folder) in PROGRAMS {
        build(&tree, work, "build", &programs.join(name), folder)?;
    }
    build(
        &tree,
        work,
        "build",
        &ginkgo,
        "vendor/github.com/onsi/ginkgo/ginkgo",
    )?;
    build(&tree, work, "test", &tests, "test/e2e")?;
    Ok(Suite {
        sources,
        programs,
        tests,
        ginkgo,
    })
}

/// Where this machine's packages come from, a line each: address, release, component.
fn indexes() -> anyhow::Result<String> {
    let listed = Command::new("apt-get")
        .args(["indextargets", "--format"])
        .args([
            "$(REPO_URI) $(RELEASE) $(COMPONENT)",
            "Identifier: Packages",
        ])
        .output()
        .context("run apt-get indextargets")?;
    Ok(String::from_utf8_lossy(&listed.stdout).into_owned())
}

/// The line for source packages of the release that has the suite's.
fn deb_src(indexes: &str) -> anyhow::Result<String> {
    let ends = format!(" {RELEASE} main");
    let index = indexes.lines().find(|line| line.ends_with(&ends));
    let index = index.with_context(|| format!("this machine has no packages of {RELEASE}"))?;
    Ok(format!("deb-src {index}\n"))
}

/// The source package, unpacked and made ready, once.
fn sources(work: &Path) -> anyhow::Result<PathBuf> {
    let folder = work.join("kubernetes");
    if folder.join("test/e2e/generated/bindata.go").is_file() {
        return Ok(folder);
    }
    run::step("the source package of Kubernetes");
    if run::find_program("dpkg-source").is_none() {
        checked(Command::new("apt-get").args([
            "install",
            "-q",
            "-y",
            "--no-install-recommends",
            "dpkg-dev",
        ]))?;
    }
    // A list of its own: most machines' have no source packages, and it is not ours to change them.
    let lists = work.join("lists");
    std::fs::create_dir_all(lists.join("partial"))?;
    let source_list = work.join("sources.list");
    std::fs::write(&source_list, deb_src(&indexes()?)?)?;
    for words in [
        &["update", "-q"][..],
        &["source", "-q", "--download-only", "kubernetes"],
    ] {
        checked(
            Command::new("apt-get")
                .current_dir(work)
                .arg(format!("-oDir::Etc::SourceList={}", source_list.display()))
                .arg("-oDir::Etc::SourceParts=/nonexistent")
                .arg(format!("-oDir::State::Lists={}", lists.display()))
                .args(words),
        )?;
    }
    let described = std::fs::read_dir(work)?
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|end| end == "dsc"))
        .context("apt-get source left no .dsc")?;
    let _ = std::fs::remove_dir_all(&folder);
    // Debian's patches are for its own build; the suite is wanted as it was published.
    checked(
        Command::new("dpkg-source")
            .args(["--no-check", "--skip-patches", "--extract"])
            .arg(described)
            .arg(&folder),
    )?;
    // Since 1.24 an account has no Secret with a token; the suite would wait for one before each test.
    let path = folder.join("test/e2e/framework/util.go");
    let text = std::fs::read_to_string(&path)?;
    let changed = text.replace("return len(t.Secrets) > 0, nil", "return t != nil, nil");
    if text == changed {
        bail!("{} is not what it was", path.display());
    }
    std::fs::write(&path, changed)?;
    let embedded = embed(&folder)?;
    std::fs::write(folder.join("test/e2e/generated/bindata.go"), embedded)?;
    Ok(folder)
}

/// The package `generated`, which Kubernetes' own build makes: files by their paths.
fn embed(sources: &Path) -> anyhow::Result<Vec<u8>> {
    let mut text =
        String::from("package generated\n\nimport \"fmt\"\n\nvar files = map[string]string{\n");
    let mut folders: Vec<PathBuf> = FILES.iter().map(|folder| sources.join(folder)).collect();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let code = path.extension().is_some_and(|end| end == "go");
            if code || !path.is_file() {
                continue;
            }
            let name = path.strip_prefix(sources)?.to_string_lossy().into_owned();
            let content = std::fs::read(&path)?;
            writeln!(text, "\t{}: {},", quoted(name.as_bytes()), quoted(&content))?;
        }
    }
    text.push_str(
        "}\n\n\
         func Asset(name string) ([]byte, error) {\n\
         \tif text, ok := files[name]; ok {\n\t\treturn []byte(text), nil\n\t}\n\
         \treturn nil, fmt.Errorf(\"no asset %s\", name)\n}\n\n\
         func AssetNames() []string {\n\tvar names []string\n\
         \tfor name := range files {\n\t\tnames = append(names, name)\n\t}\n\treturn names\n}\n",
    );
    Ok(text.into_bytes())
}

/// A string of Go with these bytes.
fn quoted(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() + 2);
    text.push('"');
    for &byte in bytes {
        match byte {
            b' '..=b'~' if byte != b'"' && byte != b'\\' => text.push(char::from(byte)),
            _ => {
                let _ = write!(text, "\\x{byte:02x}");
            }
        }
    }
    text.push('"');
    text
}

/// Kubernetes 1.20 was built below GOPATH.
fn in_gopath(work: &Path, sources: &Path) -> anyhow::Result<PathBuf> {
    let parent = work.join("gopath/src/k8s.io");
    std::fs::create_dir_all(&parent)?;
    let tree = parent.join("kubernetes");
    if !tree.exists() {
        std::os::unix::fs::symlink(sources, &tree)?;
    }
    Ok(tree)
}

fn build(tree: &Path, work: &Path, verb: &str, to: &Path, folder: &str) -> anyhow::Result<()> {
    if to.is_file() {
        return Ok(());
    }
    let version = "k8s.io/kubernetes/vendor/k8s.io/component-base/version";
    let mut command = Command::new(GO);
    command
        .current_dir(tree)
        // Go takes the folder's name from here, and it has to be the one below GOPATH.
        .env("PWD", tree)
        .env("GOPATH", work.join("gopath"))
        .env("GOCACHE", work.join("gocache"))
        .envs([("GO111MODULE", "off"), ("CGO_ENABLED", "0")])
        .arg(verb);
    if verb == "test" {
        command.arg("-c");
    }
    command
        .args([
            "-ldflags",
            &format!("-s -w -X {version}.gitVersion=v1.20.2"),
        ])
        .arg("-o")
        .arg(to)
        .arg(format!("./{folder}"));
    checked(&mut command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_become_a_string_of_go() {
        assert_eq!(
            quoted(b"a \"b\"\\\n\xff"),
            "\"a \\x22b\\x22\\x5c\\x0a\\xff\""
        );
    }

    #[test]
    fn sources_come_from_where_packages_do() {
        let indexes = "http://a/security/ bookworm-security main\nhttp://a/b/ bookworm main\n";
        let line = deb_src(indexes).ok();
        assert_eq!(line.as_deref(), Some("deb-src http://a/b/ bookworm main\n"));
        assert!(deb_src("http://a/b/ trixie main\n").is_err());
    }
}

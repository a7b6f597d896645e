//! Where in a body something is. Written out only where there is something to say about it, which is hardly ever.

use std::fmt;

/// As Kubernetes writes it: `spec.containers[0].foo`.
#[derive(Debug, Clone, Copy)]
pub(super) enum Path<'a> {
    /// Empty for the body itself.
    At(&'a str),
    Field(&'a Path<'a>, &'a str),
    Entry(&'a Path<'a>, usize),
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At(path) => f.write_str(path),
            Self::Field(Path::At(""), name) => f.write_str(name),
            Self::Field(up, name) => write!(f, "{up}.{name}"),
            Self::Entry(up, at) => write!(f, "{up}[{at}]"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_written_as_in_messages() {
        let body = Path::At("");
        let spec = Path::Field(&body, "spec");
        let containers = Path::Field(&spec, "containers");
        let first = Path::Entry(&containers, 0);
        let name = Path::Field(&first, "name");
        assert_eq!(name.to_string(), "spec.containers[0].name");
        assert_eq!(Path::Entry(&body, 2).to_string(), "[2]");
        let metadata = Path::At("metadata");
        assert_eq!(
            Path::Field(&metadata, "labels").to_string(),
            "metadata.labels"
        );
        assert_eq!(body.to_string(), "");
    }
}

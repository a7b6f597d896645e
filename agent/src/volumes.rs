//! ConfigMap, Secret, emptyDir and the files that every pod has.

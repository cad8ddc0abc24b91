//! A minimal writer of RPM files, for tests that need no real rpmbuild: lead, empty signature header, main header.

/// A value of a header.
pub enum Value {
    Int(Vec<u32>),
    Text(String),
    Texts(Vec<String>),
}

/// Kinds of relation with their tags: name, version, flags.
const RELATIONS: [(&str, [u32; 3]); 3] = [
    ("provides", [1047, 1113, 1112]),
    ("requires", [1049, 1050, 1048]),
    ("obsoletes", [1090, 1115, 1114]),
];

fn header(tags: &[(u32, Value)]) -> Vec<u8> {
    let (mut index, mut store) = (Vec::new(), Vec::new());
    for (tag, value) in tags {
        let (kind, count, bytes): (u32, usize, Vec<u8>) = match value {
            Value::Int(numbers) => {
                while store.len() % 4 != 0 {
                    store.push(0);
                }
                let bytes = numbers.iter().flat_map(|n| n.to_be_bytes()).collect();
                (4, numbers.len(), bytes)
            }
            Value::Text(text) => (6, 1, [text.as_bytes(), b"\0"].concat()),
            Value::Texts(texts) => {
                let bytes = texts.iter().flat_map(|t| [t.as_bytes(), b"\0"].concat());
                (8, texts.len(), bytes.collect())
            }
        };
        for number in [*tag, kind, store.len() as u32, count as u32] {
            index.extend(number.to_be_bytes());
        }
        store.extend(bytes);
    }
    let mut bytes = vec![0x8e, 0xad, 0xe8, 1, 0, 0, 0, 0];
    bytes.extend((tags.len() as u32).to_be_bytes());
    bytes.extend((store.len() as u32).to_be_bytes());
    [bytes, index, store].concat()
}

/// An RPM file. `evr` is `version-release`; relations are (kind, name, flags, version).
pub fn rpm(name: &str, evr: &str, arch: &str, relations: &[(&str, &str, u32, &str)]) -> Vec<u8> {
    let (version, release) = evr.split_once('-').unwrap();
    let mut tags = vec![
        (1000, Value::Text(name.into())),
        (1001, Value::Text(version.into())),
        (1002, Value::Text(release.into())),
        (1004, Value::Texts(vec![format!("{name} <&> summary")])),
        (1022, Value::Text(arch.into())),
        (1030, Value::Int(vec![0o040_755, 0o100_644])),
        (1037, Value::Int(vec![0, 0])),
        (1044, Value::Text(format!("{name}.src.rpm"))),
        (1116, Value::Int(vec![0, 1])),
        (1117, Value::Texts(vec!["share".into(), name.into()])),
        (1118, Value::Texts(vec!["/usr/".into(), "/usr/bin/".into()])),
    ];
    for (kind, [names, versions, flags]) in RELATIONS {
        let own: Vec<_> = relations.iter().filter(|r| r.0 == kind).collect();
        if !own.is_empty() {
            tags.push((
                names,
                Value::Texts(own.iter().map(|r| r.1.into()).collect()),
            ));
            tags.push((
                versions,
                Value::Texts(own.iter().map(|r| r.3.into()).collect()),
            ));
            tags.push((flags, Value::Int(own.iter().map(|r| r.2).collect())));
        }
    }
    let mut bytes = vec![0xed, 0xab, 0xee, 0xdb];
    bytes.resize(96, 0);
    bytes.extend(header(&[]));
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    bytes.extend(header(&tags));
    bytes.extend(b"payload");
    bytes
}

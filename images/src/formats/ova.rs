//! OVA: a virtual appliance in one tar archive, with its description, digests and disk, in that order.
//!
//! Format: DMTF DSP0243, "Open Virtualization Format Specification" 1.1.1, which VMware and VirtualBox import; the
//! firmware's kind is an extension of VMware's. Hardware by the numbers of DMTF's CIM_ResourceAllocationSettingData.

use std::fmt::Write as _;
use std::fs::File;
use std::path::Path;

use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

use super::{Identity, digest};
use crate::error::{Error, Result};

/// What an imported machine gets; importers let their users change it.
const PROCESSORS: u32 = 2;
const MEMORY_MIB: u32 = 2048;

/// A hardware item: what the schema calls ElementName, ResourceType, and further elements (sorted by name, as the
/// schema wants them).
type Item = (&'static str, u32, Vec<(&'static str, String)>);

/// Writes the archive with a disk of `size` bytes, whose VMDK is at `vmdk`.
pub(super) fn write(vmdk: &Path, size: u64, identity: &Identity, path: &Path) -> Result<()> {
    let io = |what| Error::io(what, path);
    let stem = format!("{}-{}", identity.name, identity.version);
    let disk = format!("{stem}-disk1.vmdk");
    let (sha256, length) = digest(vmdk)?;
    let description = description(identity, &disk, length, size);
    let digests = format!(
        "SHA256({stem}.ovf)= {}\nSHA256({disk})= {sha256}\n",
        hex::encode(Sha256::digest(&description))
    );
    let file = File::create_new(path).map_err(io("create"))?;
    let mut archive = Builder::new(file);
    let small = [
        (format!("{stem}.ovf"), description),
        (format!("{stem}.mf"), digests),
    ];
    for (name, text) in &small {
        let mut header = header(text.len() as u64, identity.epoch);
        archive
            .append_data(&mut header, name, text.as_bytes())
            .map_err(io("write"))?;
    }
    let content = File::open(vmdk).map_err(Error::io("open", vmdk))?;
    let mut header = header(length, identity.epoch);
    archive
        .append_data(&mut header, &disk, content)
        .map_err(io("write"))?;
    let file = archive.into_inner().map_err(io("write"))?;
    file.sync_all().map_err(io("flush"))
}

fn header(size: u64, epoch: u64) -> Header {
    let mut header = Header::new_ustar();
    header.set_entry_type(EntryType::Regular);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(epoch);
    header.set_size(size);
    header
}

fn hardware() -> Vec<Item> {
    let text = |text: &str| text.to_owned();
    vec![
        (
            "Processors",
            3,
            vec![
                ("AllocationUnits", text("hertz * 10^6")),
                ("InstanceID", text("1")),
                ("VirtualQuantity", PROCESSORS.to_string()),
            ],
        ),
        (
            "Memory",
            4,
            vec![
                ("AllocationUnits", text("byte * 2^20")),
                ("InstanceID", text("2")),
                ("VirtualQuantity", MEMORY_MIB.to_string()),
            ],
        ),
        (
            "SCSI controller",
            6,
            vec![
                ("Address", text("0")),
                ("InstanceID", text("3")),
                ("ResourceSubType", text("VirtualSCSI")),
            ],
        ),
        (
            "Disk",
            17,
            vec![
                ("AddressOnParent", text("0")),
                ("HostResource", text("ovf:/disk/disk1")),
                ("InstanceID", text("4")),
                ("Parent", text("3")),
            ],
        ),
        (
            "Ethernet adapter",
            10,
            vec![
                ("AutomaticAllocation", text("true")),
                ("Connection", text("network")),
                ("InstanceID", text("5")),
                ("ResourceSubType", text("VmxNet3")),
            ],
        ),
    ]
}

/// The machine's description. Names are of letters, digits and `.-+~`, which mean nothing in XML.
fn description(identity: &Identity, disk: &str, length: u64, size: u64) -> String {
    let (name, version) = (&identity.name, &identity.version);
    let mut items = String::new();
    for (element, kind, fields) in hardware() {
        let mut fields = fields;
        fields.extend([
            ("ElementName", element.to_owned()),
            ("ResourceType", kind.to_string()),
        ]);
        fields.sort();
        items.push_str("      <Item>\n");
        for (field, value) in fields {
            let _ = writeln!(items, "        <rasd:{field}>{value}</rasd:{field}>");
        }
        items.push_str("      </Item>\n");
    }
    format!(
        r#"<?xml version="1.0" encoding="UTF-8"?>
<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1" xmlns:rasd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData" xmlns:vmw="http://www.vmware.com/schema/ovf" xmlns:vssd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_VirtualSystemSettingData">
  <References>
    <File ovf:href="{disk}" ovf:id="file1" ovf:size="{length}"/>
  </References>
  <DiskSection>
    <Info>Disks</Info>
    <Disk ovf:capacity="{size}" ovf:capacityAllocationUnits="byte" ovf:diskId="disk1" ovf:fileRef="file1" ovf:format="http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized"/>
  </DiskSection>
  <NetworkSection>
    <Info>Networks</Info>
    <Network ovf:name="network">
      <Description>The network of the machines</Description>
    </Network>
  </NetworkSection>
  <VirtualSystem ovf:id="{name}">
    <Info>A machine</Info>
    <Name>{name}</Name>
    <OperatingSystemSection ovf:id="96" vmw:osType="debian12_64Guest">
      <Info>The operating system</Info>
    </OperatingSystemSection>
    <ProductSection>
      <Info>The product</Info>
      <Product>{name}</Product>
      <Version>{version}</Version>
    </ProductSection>
    <VirtualHardwareSection>
      <Info>Hardware</Info>
      <System>
        <vssd:ElementName>Virtual Hardware Family</vssd:ElementName>
        <vssd:InstanceID>0</vssd:InstanceID>
        <vssd:VirtualSystemIdentifier>{name}</vssd:VirtualSystemIdentifier>
        <vssd:VirtualSystemType>vmx-13</vssd:VirtualSystemType>
      </System>
{items}      <vmw:Config ovf:required="false" vmw:key="firmware" vmw:value="efi"/>
    </VirtualHardwareSection>
  </VirtualSystem>
</Envelope>
"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::tests::identity;
    use std::io::Read;

    #[test]
    fn description_first_then_digests_that_fit_then_the_disk() {
        let folder = tempfile::tempdir().unwrap();
        let vmdk = folder.path().join("disk");
        std::fs::write(&vmdk, b"a disk").unwrap();
        let paths = [folder.path().join("one"), folder.path().join("two")];
        for path in &paths {
            write(&vmdk, 1 << 20, &identity(), path).unwrap();
        }
        let bytes = std::fs::read(&paths[0]).unwrap();
        assert!(bytes == std::fs::read(&paths[1]).unwrap());
        let mut archive = tar::Archive::new(&bytes[..]);
        let mut files = Vec::new();
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut content = String::new();
            entry.read_to_string(&mut content).unwrap();
            files.push((entry.path().unwrap().display().to_string(), content));
        }
        let names: Vec<&str> = files.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(
            names,
            ["sample-1.0.ovf", "sample-1.0.mf", "sample-1.0-disk1.vmdk"]
        );
        for (name, content) in [&files[0], &files[2]] {
            let line = format!("SHA256({name})= {}\n", hex::encode(Sha256::digest(content)));
            assert!(files[1].1.contains(&line), "{line}");
        }
        assert_eq!(files[0].1.matches("<Item>").count(), 5);
        assert!(files[0].1.contains("ovf:capacity=\"1048576\""));
    }
}

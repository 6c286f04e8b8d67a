//! The Configuration payload (RFC 7296 3.15).

use super::{CfgAttributeType, CfgType};
use crate::DecodeError;
use crate::cursor::{Reader, Writer};

/// Settings asked for or handed out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Configuration {
    /// Request, reply, set or acknowledgement.
    pub cfg_type: CfgType,
    /// The settings, in order.
    pub attributes: Vec<ConfigurationAttribute>,
}

/// One setting. An empty value in a request asks for any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigurationAttribute {
    /// What it is. 15 bits on the wire.
    pub attribute_type: CfgAttributeType,
    /// Its value, in a form the type defines.
    pub value: Vec<u8>,
}

impl Configuration {
    pub(super) fn decode(body: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body, "CP payload");
        let cfg_type = CfgType(reader.u8()?);
        reader.take(3)?; // RESERVED
        let mut attributes = Vec::new();
        while !reader.is_empty() {
            attributes.push(
                ConfigurationAttribute::decode(&mut reader)
                    .map_err(|e| e.in_item("attribute", attributes.len() + 1))?,
            );
        }
        Ok(Self { cfg_type, attributes })
    }

    pub(super) fn encode(&self, writer: &mut Writer) {
        writer.u8(self.cfg_type.0);
        writer.zeros(3);
        for attribute in &self.attributes {
            writer.u16(attribute.attribute_type.0 & ConfigurationAttribute::TYPE_MASK);
            let from = writer.len() + 2;
            let length = writer.len_u16(from);
            writer.bytes(&attribute.value);
            writer.end_len(length);
        }
    }
}

impl ConfigurationAttribute {
    /// The top bit is reserved and ignored.
    const TYPE_MASK: u16 = 0x7fff;

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let attribute_type = CfgAttributeType(reader.u16()? & Self::TYPE_MASK);
        let length = usize::from(reader.u16()?);
        Ok(Self { attribute_type, value: reader.sub(length, "CP payload")?.rest().to_vec() })
    }
}

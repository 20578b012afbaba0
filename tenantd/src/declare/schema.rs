//! The JSON Schema of the declarative file, made of the types that read it. An editor completes and checks by it; what it
//! refuses the program refuses, but not the other way round: that two tenants do not take one VLAN no schema can say.

use serde_json::{Map, Value, json};
use utoipa::{PartialSchema, ToSchema};

use super::File;

/// A DNS label of at most 48 characters, as tenants and services have for names.
const NAME: &str = "^[a-z0-9]([a-z0-9-]{0,46}[a-z0-9])?$";

/// The schema, draft 2020-12.
#[must_use]
pub fn schema() -> Value {
    let mut parts = Vec::new();
    File::schemas(&mut parts);
    let parts: Map<_, _> =
        parts.into_iter().map(|(name, part)| (name, serde_json::to_value(part).unwrap_or_default())).collect();
    let mut schema = serde_json::to_value(File::schema()).unwrap_or_default();
    schema["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
    schema["title"] = json!("closed-networks.toml");
    schema["$defs"] = Value::Object(parts);
    point_to_defs(&mut schema);
    for map in ["/properties/tenants", "/$defs/DeclaredTenant/properties/services"] {
        if let Some(map) = schema.pointer_mut(map) {
            map["propertyNames"] = json!({ "pattern": NAME });
        }
    }
    schema
}

/// OpenAPI keeps its parts elsewhere.
fn point_to_defs(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            if let Some(Value::String(to)) = fields.get_mut("$ref") {
                *to = to.replace("#/components/schemas/", "#/$defs/");
            }
            fields.values_mut().for_each(point_to_defs);
        }
        Value::Array(values) => values.iter_mut().for_each(point_to_defs),
        _ => {}
    }
}

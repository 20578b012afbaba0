//! Values that may be written short, as text, where a request or a file has room for an object.
//!
//! Such a type derives `Deserialize` with `#[serde(remote = "Self")]`, which makes the object's reader an inherent
//! function; [`text_or_object`] puts the reader around it that takes the text form too.

/// `text_or_object!(Type, Form, "what it is")`: reading of `Type` from text ([`FromStr`](std::str::FromStr)) or object,
/// writing as object, and `Form`, the schema that says so.
macro_rules! text_or_object {
    ($type:ident, $form:ident, $expecting:literal) => {
        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Either;
                impl<'de> serde::de::Visitor<'de> for Either {
                    type Value = $type;

                    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                        f.write_str($expecting)
                    }

                    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<$type, E> {
                        text.parse().map_err(E::custom)
                    }

                    fn visit_map<M: serde::de::MapAccess<'de>>(self, map: M) -> Result<$type, M::Error> {
                        $type::deserialize(serde::de::value::MapAccessDeserializer::new(map))
                    }
                }
                deserializer.deserialize_any(Either)
            }
        }

        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                $type::serialize(self, serializer)
            }
        }

        crate::model::short::text_or_object_schema!($type, $form, $expecting);
    };
}

/// The schema alone, for a type that reads both forms by itself.
macro_rules! text_or_object_schema {
    ($type:ident, $form:ident, $expecting:literal) => {
        #[doc = concat!("Schema: `", $expecting, "`.")]
        #[derive(Debug)]
        #[allow(unreachable_pub, reason = "as public as the type it describes, and not more")]
        pub enum $form {}

        impl utoipa::PartialSchema for $form {
            fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
                let text = utoipa::openapi::Object::with_type(utoipa::openapi::schema::Type::String);
                let object = utoipa::openapi::Ref::from_schema_name(<$type as utoipa::ToSchema>::name());
                let both = utoipa::openapi::schema::OneOfBuilder::new().item(text).item(object);
                both.description(Some($expecting)).into()
            }
        }

        impl utoipa::ToSchema for $form {
            fn name() -> std::borrow::Cow<'static, str> {
                stringify!($form).into()
            }

            fn schemas(schemas: &mut Vec<(String, utoipa::openapi::RefOr<utoipa::openapi::schema::Schema>)>) {
                schemas.push((<$type as utoipa::ToSchema>::name().into(), <$type as utoipa::PartialSchema>::schema()));
                <$type as utoipa::ToSchema>::schemas(schemas);
            }
        }
    };
}

pub(crate) use {text_or_object, text_or_object_schema};

//! Who can read the table, by which right, and what the login may change, as the catalogs have it.

use crate::cutover::{Fence, Grant};
use crate::error::Result;
use crate::postgres::{Columns, Session, TableShape};

/// A role that can read the payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reader {
    /// Its name.
    pub role: String,
    /// Whether it is a superuser, which no right binds.
    pub is_superuser: bool,
    /// Whether it owns the table.
    pub is_owner: bool,
    /// The roles with a right of their own whose rights it has, itself included.
    pub through: Vec<String>,
}

/// See the module's head.
#[derive(Debug, Clone)]
pub struct Catalog {
    /// The owner of the table.
    pub owner: String,
    /// The role that changes the rights.
    pub login: String,
    /// Whether that role may change them.
    pub may_change: bool,
    /// Whether that role sees the statements of all roles.
    pub sees_all: bool,
    /// The server process that holds the lock of the slot, with `None` if there is none.
    pub holder: Option<i32>,
    /// Every right to `SELECT` on the table or a column, of a role.
    pub grants: Vec<Grant>,
    /// The roles that can log in and read the payload, and those with a right of their own.
    pub readers: Vec<Reader>,
}

const ABOUT: &str = "
    SELECT o.rolname::text, current_user::text,
           u.rolsuper OR pg_catalog.pg_has_role(u.oid, c.relowner, 'USAGE'),
           u.rolsuper OR pg_catalog.pg_has_role(u.oid, 'pg_read_all_stats', 'USAGE')
      FROM pg_catalog.pg_class AS c
      JOIN pg_catalog.pg_roles AS o ON o.oid = c.relowner
      JOIN pg_catalog.pg_roles AS u ON u.rolname = current_user
     WHERE c.oid = $1";

/// A table without an own list of rights has the default one.
const GRANTS: &str = "
    SELECT r.rolname::text, NULL::text, a.is_grantable
      FROM pg_catalog.pg_class AS c
     CROSS JOIN LATERAL pg_catalog.aclexplode(
           coalesce(c.relacl, pg_catalog.acldefault('r', c.relowner))) AS a
      JOIN pg_catalog.pg_roles AS r ON r.oid = a.grantee
     WHERE c.oid = $1 AND a.privilege_type = 'SELECT'
     UNION
    SELECT r.rolname::text, t.attname::text, a.is_grantable
      FROM pg_catalog.pg_attribute AS t
     CROSS JOIN LATERAL pg_catalog.aclexplode(t.attacl) AS a
      JOIN pg_catalog.pg_roles AS r ON r.oid = a.grantee
     WHERE t.attrelid = $1 AND NOT t.attisdropped AND a.privilege_type = 'SELECT'
     ORDER BY 1, 2 NULLS FIRST";

const READERS: &str = "
    SELECT r.rolname::text, r.rolsuper, r.oid = c.relowner,
           ARRAY(SELECT g.rolname::text FROM pg_catalog.pg_roles AS g
                  WHERE g.rolname = ANY ($3::text[])
                    AND pg_catalog.pg_has_role(r.oid, g.oid, 'USAGE') ORDER BY 1)
      FROM pg_catalog.pg_roles AS r
      JOIN pg_catalog.pg_class AS c ON c.oid = $1
     WHERE (r.rolcanlogin OR r.rolname = ANY ($3::text[]))
       AND pg_catalog.has_column_privilege(r.oid, c.oid, $2::int2, 'SELECT')
     ORDER BY 1";

impl Catalog {
    /// Reads the rights on this table over a session of the role that changes them.
    ///
    /// # Errors
    /// Of the server or the session.
    pub async fn read(
        session: &Session,
        shape: &TableShape,
        holder: Option<i32>,
    ) -> Result<Catalog> {
        let what = format!("reading the rights on {}", shape.name);
        let about = session.row(&what, ABOUT, &[&shape.oid]).await?;
        let rows = session.rows(&what, GRANTS, &[&shape.oid]).await?;
        let grants = rows.iter().map(|row| {
            Ok(Grant {
                role: row.column(0)?,
                column: row.column(1)?,
                grantable: row.column(2)?,
            })
        });
        let grants: Vec<Grant> = grants.collect::<Result<_>>()?;
        let named: Vec<&str> = grants.iter().map(|grant| grant.role.as_str()).collect();
        let payload = shape.payload().map_or(0, |column| column.number);
        let readers = session
            .rows(&what, READERS, &[&shape.oid, &payload, &named])
            .await?;
        let readers = readers.iter().map(|row| {
            Ok(Reader {
                role: row.column(0)?,
                is_superuser: row.column(1)?,
                is_owner: row.column(2)?,
                through: row.column(3)?,
            })
        });
        Ok(Catalog {
            owner: about.column(0)?,
            login: about.column(1)?,
            may_change: about.column(2)?,
            sees_all: about.column(3)?,
            holder,
            readers: readers.collect::<Result<_>>()?,
            grants,
        })
    }

    fn reader(&self, role: &str) -> Option<&Reader> {
        self.readers.iter().find(|reader| reader.role == role)
    }

    /// Whether this role can read the payload.
    pub fn reads(&self, role: &str) -> bool {
        self.reader(role).is_some()
    }

    /// Whether this role is a superuser that can read the table.
    pub fn is_superuser(&self, role: &str) -> bool {
        self.reader(role).is_some_and(|reader| reader.is_superuser)
    }

    /// The fence for these roles or, if none is named, for each role but `own` that has a right of
    /// its own to read the payload.
    pub fn fence(&self, shape: &TableShape, roles: &[String], own: &str) -> Fence {
        let has_right = |reader: &&Reader| reader.through.contains(&reader.role);
        let all = self.readers.iter().filter(has_right);
        let all = all.filter(|reader| !reader.is_superuser && reader.role != own);
        let roles = match roles {
            [] => all.map(|reader| reader.role.clone()).collect(),
            named => named.to_vec(),
        };
        let before = self.grants.iter().filter(|it| roles.contains(&it.role));
        let attempts = shape.attempts().map(|column| column.name.clone());
        let ids = shape.id_columns().into_iter();
        let mut left: Vec<String> = ids.map(|column| column.name.clone()).collect();
        left.extend(attempts);
        Fence {
            schema: shape.name.schema.clone(),
            table: shape.name.name.clone(),
            left,
            before: before.cloned().collect(),
            roles,
        }
    }

    /// The roles that can log in and read the payload though this fence stands, but for superusers
    /// and `own`.
    pub fn beside(&self, fence: &Fence, own: &str) -> Vec<&Reader> {
        let is_fenced = |reader: &&Reader| {
            let through = &reader.through;
            !through.is_empty() && through.iter().all(|role| fence.roles.contains(role))
        };
        let readers = self.readers.iter();
        let others = readers.filter(|it| !it.is_superuser && it.role != own && !is_fenced(it));
        others.collect()
    }
}

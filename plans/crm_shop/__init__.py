"""The bundled case: one database shared by a CRM, a shop and an MES."""

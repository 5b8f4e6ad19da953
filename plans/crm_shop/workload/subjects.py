"""Where the bundled database shows what its writers did.

Counters live in columns that an application might well use so: a number in front of a
remark ("#3 called back"), a plus-address, a version inside of a JSON document.
"""

from __future__ import annotations

from plans.crm_shop.workload.subject import CountSubject, RowSubject, Subjects, by_name

# Of the CRM

CALLS = RowSubject(
    "interactions of the crm",
    "crm",
    "interactions",
    "subject",
    "concat_ws(' ', channel, customer_id, body)",
)
LEADS = RowSubject("leads", "crm", "leads", "id::text", "concat_ws(' ', source, company)")
LEAD_CONTACTS = CountSubject(
    "contacts of leads",
    "crm",
    "leads",
    "id::text",
    "coalesce((contact ->> 'revision')::int, 0)",
    "contact ->> 'phone'",
)
OPPORTUNITIES = RowSubject(
    "opportunities", "crm", "opportunities", "id::text", "concat_ws(' ', amount, customer_id)"
)
AUDIT = RowSubject("audit log", "crm", "audit_log", "subject", "concat_ws(' ', action, detail)")
TICKETS = RowSubject(
    "tickets", "crm", "tickets", "id::text", "concat_ws(' ', customer_id, subject)"
)
MESSAGES = RowSubject(
    "ticket messages", "crm", "ticket_messages", "body", "concat_ws(' ', ticket_id, position)"
)
TAGS = RowSubject("customer tags", "crm", "customer_tags", "tag", "customer_id::text")
CUSTOMER_NOTES = CountSubject(
    "customers of the crm",
    "crm",
    "customers",
    "id::text",
    "coalesce(substring(notes from '^#([0-9]+) ')::int, 0)",
    "concat_ws(' ', segment, phone, notes)",
)
STAGES = CountSubject(
    "stages of orders",
    "crm",
    "crm_orders",
    "order_id::text",
    "coalesce(substring(remarks from '^#([0-9]+) ')::int, 0)",
    "concat_ws(' ', stage, quoted_amount, remarks)",
)

# Of the shop

CUSTOMERS = RowSubject("customers", "shop", "customers", "id::text", "password_hash")
EMAILS = CountSubject(
    "customers of the shop",
    "shop",
    "customers",
    "id::text",
    "coalesce(substring(email from '[+]([0-9]+)@')::int, 0)",
    "concat_ws(' ', email, marketing_consent)",
)
ACCOUNTS = RowSubject("accounts", "shop", "accounts", "id::text", "customer_id::text")
ACCOUNT_SETTINGS = CountSubject(
    "settings of accounts",
    "shop",
    "accounts",
    "id::text",
    "coalesce((settings ->> 'revision')::int, 0)",
    "concat_ws(' ', locale, settings)",
)
ADDRESSES = RowSubject(
    "addresses", "shop", "addresses", "id::text", "concat_ws(' ', customer_id, lines)"
)
ORDERS = RowSubject(
    "orders", "shop", "orders", "id::text", "concat_ws(' ', number, customer_id, gross_total)"
)
ORDER_ITEMS = RowSubject(
    "order items",
    "shop",
    "order_items",
    "order_id || '/' || line_no",
    "concat_ws(' ', product_id, quantity, line_total, options)",
)
STATUSES = CountSubject(
    "statuses of orders",
    "shop",
    "orders",
    "id::text",
    "coalesce(substring(comment from '^#([0-9]+) ')::int, 0)",
    "concat_ws(' ', status, comment)",
)
PAYMENTS = RowSubject(
    "payments",
    "shop",
    "payments",
    "id::text",
    "concat_ws(' ', order_id, method, amount, provider_reply)",
)
INVOICES = RowSubject(
    "invoices",
    "shop",
    "invoices",
    "series || '-' || number",
    "concat_ws(' ', order_id, net, gross)",
)
INVOICE_NUMBERS = CountSubject("invoice numbers", "shop", "invoice_series", "series", "last_number")
SHIPMENTS = RowSubject(
    "shipments", "shop", "shipments", "id::text", "concat_ws(' ', order_id, tracking_codes)"
)
CARTS = RowSubject("carts", "shop", "carts", "id::text", "customer_id::text")
CART_ITEMS = RowSubject("cart items", "shop", "cart_items", "cart_id || '/' || position")
MODELS = RowSubject(
    "uploaded models",
    "shop",
    "uploaded_models",
    "id::text",
    "concat_ws(' ', file_name, md5(content))",
)
DOWNLOADS = CountSubject(
    "downloads of models",
    "shop",
    "uploaded_models",
    "id::text",
    "downloads",
    "concat_ws(' ', file_name, md5(content))",
)
PRODUCTS = CountSubject(
    "products",
    "shop",
    "products",
    "id::text",
    "coalesce((attributes ->> 'revision')::int, 0)",
    "concat_ws(' ', sku, weight_g, md5(description), attributes)",
)
VIEWS = RowSubject(
    "page views", "shop", "page_views", "path || to_char(viewed_on, ' YYYY-MM-DD')", "agent"
)
VIEW_BATCHES = RowSubject("batches of page views", "shop", "page_views", "agent")
VISITS = RowSubject(
    "interactions of the shop",
    "shop",
    "interactions",
    "subject",
    "concat_ws(' ', channel, customer_id, body)",
)

# Of the MES, which shares the shop's database

JOBS = RowSubject("production jobs", "shop", "production_jobs", "id::text", "order_id::text")
JOB_STATES = CountSubject(
    "states of jobs",
    "shop",
    "production_jobs",
    "id::text",
    "parts_done",
    "concat_ws(' ', state, parts_total)",
)
STEPS = RowSubject(
    "job steps",
    "shop",
    "job_steps",
    "name",
    "concat_ws(' ', job_id, step_no, minutes_planned, readings)",
)
MATERIALS = RowSubject("materials", "shop", "materials", "code", "concat_ws(' ', title, colours)")

SUBJECTS: Subjects = by_name(
    *(CALLS, LEADS, LEAD_CONTACTS, OPPORTUNITIES, AUDIT, TICKETS, MESSAGES, TAGS),
    *(CUSTOMER_NOTES, STAGES),
    *(CUSTOMERS, EMAILS, ACCOUNTS, ACCOUNT_SETTINGS, ADDRESSES, ORDERS, ORDER_ITEMS, STATUSES),
    *(PAYMENTS, INVOICES, INVOICE_NUMBERS, SHIPMENTS, CARTS, CART_ITEMS, MODELS, DOWNLOADS),
    *(PRODUCTS, VIEWS, VIEW_BATCHES, VISITS),
    *(JOBS, JOB_STATES, STEPS, MATERIALS),
)

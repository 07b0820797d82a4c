// Roles, lowest first, as in the setting amt_keys.roles; and the scopes that keys may be narrowed to, which are this
// application's own.

export const ROLES = ['viewer', 'editor', 'admin', 'owner'];
export const SCOPES = ['notes:read', 'notes:write'];

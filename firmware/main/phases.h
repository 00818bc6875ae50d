/* Pins of the phases; phase_begin and phase_end are in app.h. */
#ifndef PHASES_H
#define PHASES_H

/* Makes the pins outputs, low. Before anything else, once. */
void phases_start(void);

#endif
